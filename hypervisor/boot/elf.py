"""ELF executables for i386 as a boot loader sees them: an entry point and segments to be placed.

Only the header and the program headers are looked at (System V ABI, Edition 4.1, chapters 4 and 5),
because nothing else concerns a loader: an image whose section headers are damaged or stripped boots.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from hypervisor.errors import ImageError

MAGIC = b"\x7fELF"
CLASS_32, LITTLE_ENDIAN = 1, 1
ET_EXEC = 2
EM_386 = 3
PT_LOAD = 1

_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<8I")


class Segment(NamedTuple):
    """What belongs at a physical address: ``data``, and zeros up to ``size`` bytes in all."""

    address: int
    data: bytes
    size: int


class Executable(NamedTuple):
    entry: int
    """Physical address of the first instruction."""
    segments: list[Segment]


def read_executable(name: str, image: bytes) -> Executable:
    """Take an ELF file apart. Raises ImageError, which begins with ``name``."""
    if len(image) < _HEADER.size:
        raise ImageError(f"{name}: a truncated ELF file")
    identity, kind, machine, _, entry, offset, *_, entry_size, count, _, _, _ = _HEADER.unpack_from(image)
    if (identity[4], identity[5], machine) != (CLASS_32, LITTLE_ENDIAN, EM_386):
        raise ImageError(f"{name}: an ELF file, but not for 32-bit x86")
    if kind != ET_EXEC:
        raise ImageError(f"{name}: an ELF file, but not an executable one (type {kind})")
    if entry_size < _PROGRAM_HEADER.size or offset + entry_size * count > len(image):
        raise ImageError(f"{name}: the ELF file is truncated, or its program headers make no sense")
    segments: list[Segment] = []
    physical_entry = entry
    for at in range(offset, offset + entry_size * count, entry_size):
        segment_kind, start, virtual, physical, filled, size, _, _ = _PROGRAM_HEADER.unpack_from(image, at)
        if segment_kind != PT_LOAD or size == 0:
            continue
        if filled > size or start + filled > len(image):
            raise ImageError(
                f"{name}: the ELF file is truncated, or its segment {len(segments)} makes no sense"
            )
        segments.append(Segment(physical, image[start : start + filled], size))
        if virtual <= entry < virtual + size:
            # Entry points are linked at virtual addresses; the kernel starts without paging.
            physical_entry = entry - virtual + physical
    if not segments:
        raise ImageError(f"{name}: an ELF file with nothing to load")
    return Executable(physical_entry & 0xFFFFFFFF, segments)
