"""Booting by the Multiboot 1 specification (version 0.6.96): ELF and flat images, command line, modules.

The kernel is entered as a boot loader would: 32-bit protected mode, flat segments, paging and
interrupts off, EAX = 0x2BADB002, EBX = address of the boot information. The structures lie below the
video memory; modules go behind the kernel, page-aligned.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from hypervisor.errors import ImageError

MAGIC = 0x1BADB002
BOOTED = 0x2BADB002
SEARCH = 8192
"""The header lies within the first 8 KiB of the file (section 3.1)."""

PAGE_ALIGN = 1 << 0
MEMORY_INFO = 1 << 1
ADDRESSES = 1 << 16
KNOWN_REQUIREMENTS = PAGE_ALIGN | MEMORY_INFO

INFO = 0x9000
"""Guest-physical address of the boot information; strings, modules and the memory map follow."""
INFO_END = 0x9F000
LOADER_NAME = b"hypervisor\0"
HIGH = 0x100000

I_MEMORY, I_COMMAND_LINE, I_MODULES, I_MEMORY_MAP, I_LOADER = (1 << bit for bit in (0, 2, 3, 6, 9))


@dataclass
class Header:
    """A Multiboot header: ``flags`` and, for flat images, the addresses."""

    flags: int
    offset: int
    header_addr: int
    load_addr: int
    load_end_addr: int
    bss_end_addr: int
    entry_addr: int


def find_header(image: bytes, name: str) -> Header:
    """Raises ImageError if there is none, or if it requires what we do not offer."""
    for offset in range(0, min(len(image), SEARCH) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<III", image, offset)
        if magic == MAGIC and (magic + flags + checksum) & 0xFFFFFFFF == 0:
            break
    else:
        raise ImageError(f"{name}: not a Multiboot image (no header in its first {SEARCH} bytes)")
    unknown = flags & 0xFFFF & ~KNOWN_REQUIREMENTS
    if unknown:
        raise ImageError(f"{name}: its Multiboot header requires features {unknown:#x}, which are not offered")
    if flags & ADDRESSES:
        if offset + 32 > len(image):
            raise ImageError(f"{name}: its Multiboot header is cut off")
        addresses = struct.unpack_from("<IIIII", image, offset + 12)
        return Header(flags, offset, *addresses)
    return Header(flags, offset, 0, 0, 0, 0, 0)


class Loader:
    """Puts an image, its modules and the boot information into guest RAM."""

    def __init__(self, ram: memoryview, regions: list[tuple[int, int]]) -> None:
        self.ram = ram
        self.regions = regions
        self.top = HIGH
        """End of what was loaded above 1 MiB."""

    def place(self, name: str, address: int, data: bytes, size: int) -> None:
        """``data`` and then zeros, ``size`` bytes in all, at a guest-physical address."""
        if size == 0:
            return
        if not any(first <= address and address + size <= first + length for first, length in self.regions):
            raise ImageError(
                f"{name}: it wants {size} bytes at {address:#x}, where the machine's "
                f"{len(self.ram) >> 20} MiB of memory have no room"
            )
        self.ram[address : address + len(data)] = data
        self.ram[address + len(data) : address + size] = bytes(size - len(data))
        self.top = max(self.top, address + size)

    def load_elf(self, name: str, image: bytes) -> int:
        """Load the segments of an ELF executable at their physical addresses; returns the entry point."""
        try:
            elf = ELFFile(io.BytesIO(image))
            if elf.elfclass != 32 or not elf.little_endian or elf["e_machine"] != "EM_386":
                raise ImageError(f"{name}: an ELF file, but not for 32-bit x86")
            if elf["e_type"] != "ET_EXEC":
                raise ImageError(f"{name}: an ELF file, but not an executable one")
            entry = elf["e_entry"]
            loaded = 0
            for segment in elf.iter_segments("PT_LOAD"):
                size, filled = segment["p_memsz"], segment["p_filesz"]
                data = image[segment["p_offset"] : segment["p_offset"] + filled]
                if len(data) != filled or filled > size:
                    raise ImageError(f"{name}: the ELF file is truncated or its segments make no sense")
                self.place(name, segment["p_paddr"], data, size)
                if segment["p_vaddr"] <= elf["e_entry"] < segment["p_vaddr"] + size:
                    # Entry points are linked at virtual addresses; the kernel starts without paging.
                    entry = elf["e_entry"] - segment["p_vaddr"] + segment["p_paddr"]
                loaded += 1
        except (ELFError, ValueError, struct.error, KeyError, TypeError, UnicodeDecodeError, AttributeError) as error:
            raise ImageError(f"{name}: not a usable ELF file ({error or type(error).__name__})") from None
        if not loaded:
            raise ImageError(f"{name}: an ELF file with nothing to load")
        return int(entry)

    def load_flat(self, name: str, image: bytes, header: Header) -> int:
        """Load an image by the addresses in its header (section 3.1.3)."""
        start = header.offset - (header.header_addr - header.load_addr)
        size = header.load_end_addr - header.load_addr if header.load_end_addr else len(image) - start
        end = max(header.bss_end_addr, header.load_addr + size)
        if start < 0 or size < 0 or start + size > len(image):
            raise ImageError(f"{name}: the addresses in its Multiboot header do not fit the file (truncated?)")
        self.place(name, header.load_addr, image[start : start + size], end - header.load_addr)
        return header.entry_addr

    def load(self, name: str, image: bytes, append: str, modules: list[tuple[str, bytes]]) -> tuple[int, int]:
        """Load everything; returns (entry point, address of the boot information)."""
        header = find_header(image, name)
        if header.flags & ADDRESSES:
            entry = self.load_flat(name, image, header)
        elif image[:4] == b"\x7fELF":
            entry = self.load_elf(name, image)
        else:
            raise ImageError(f"{name}: neither an ELF file nor an image with load addresses in its header")
        placed = []
        for text, data in modules:
            at = self.top + 4095 & ~4095
            self.place(f"module {text.split(' ')[0]}", at, data, len(data))
            placed.append((at, at + len(data), text))
        return entry, self.information(f"{name} {append}".strip(), placed)

    def information(self, command_line: str, modules: list[tuple[int, int, str]]) -> int:
        """Write the boot information (section 3.3)."""
        area = bytearray(0x78)
        base = INFO

        def add(data: bytes) -> int:
            at = base + len(area)
            area.extend(data + bytes(-len(data) % 4))
            return at

        line = add(command_line.encode() + b"\0")
        loader = add(LOADER_NAME)
        strings = [add(text.encode() + b"\0") for *_, text in modules]
        table = add(
            b"".join(
                struct.pack("<IIII", first, last, text, 0)
                for (first, last, _), text in zip(modules, strings, strict=True)
            )
        )
        regions = b"".join(struct.pack("<IQQI", 20, first, length, 1) for first, length in self.regions)
        memory_map = add(regions)
        if base + len(area) > INFO_END:
            raise ImageError("the command line and the modules' names are too long for the boot information")
        lower = self.regions[0][1] >> 10
        upper = max((length for first, length in self.regions if first == HIGH), default=0) >> 10
        flags = I_MEMORY | I_COMMAND_LINE | I_MODULES | I_MEMORY_MAP | I_LOADER
        struct.pack_into("<IIIIIII", area, 0, flags, lower, upper, 0, line, len(modules), table)
        struct.pack_into("<II", area, 44, len(regions), memory_map)
        struct.pack_into("<I", area, 64, loader)
        self.ram[base : base + len(area)] = area
        return base


def read_image(path: Path) -> bytes:
    """The bytes of an image file. Raises ImageError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
