"""Cylinders, heads and sectors: the shape that a disk pretends to have.

A raw image has none, so QEMU 7.2 guesses (hw/block/hd-geometry.c): if the partition table looks as if it
was made for a shape with at most 16 heads, that one, else 16 heads of 63 sectors. The firmware finds it
in the CMOS.
"""

from __future__ import annotations

from typing import NamedTuple

CYLINDERS_MAX = 16383
HEADS, SECTORS = 16, 63
TABLE, ENTRIES, ENTRY_SIZE = 0x1BE, 4, 16
SIGNATURE = b"\x55\xaa"
TRANSLATION_NONE, TRANSLATION_LBA, TRANSLATION_LARGE = 0, 1, 2
"""How a BIOS makes a shape for its callers, as the two bits in CMOS byte 0x39."""


class Geometry(NamedTuple):
    cylinders: int
    heads: int
    sectors: int
    """Sectors of a track; they are counted from 1."""
    translation: int


def guess(sectors: int, boot_sector: bytes) -> Geometry:
    """The shape of a disk with so many sectors, of which ``boot_sector`` is the first (empty: unreadable)."""
    cylinders = min(max(sectors // (HEADS * SECTORS), 2), CYLINDERS_MAX)
    found = _partitioned_for(sectors, boot_sector)
    if found is None:
        translation = TRANSLATION_NONE if cylinders <= 1024 else TRANSLATION_LBA
        return Geometry(cylinders, HEADS, SECTORS, translation)
    if found[1] > HEADS:
        translation = TRANSLATION_LARGE if cylinders * HEADS <= 131_072 else TRANSLATION_LBA
        return Geometry(cylinders, HEADS, SECTORS, translation)
    return Geometry(*found, TRANSLATION_NONE)


def _partitioned_for(total: int, boot_sector: bytes) -> tuple[int, int, int] | None:
    """The shape for which the first usable entry of the partition table was written."""
    if boot_sector[510:512] != SIGNATURE:
        return None
    for start in range(TABLE, TABLE + ENTRIES * ENTRY_SIZE, ENTRY_SIZE):
        entry = boot_sector[start : start + ENTRY_SIZE]
        size = int.from_bytes(entry[12:16], "little")
        last_head, sectors = entry[5], entry[6] & 63
        if size and last_head and sectors:
            cylinders = total // ((last_head + 1) * sectors)
            if 1 <= cylinders <= CYLINDERS_MAX:
                return cylinders, last_head + 1, sectors
    return None


def cmos_bytes(drives: list[Geometry | None]) -> dict[int, int]:
    """What the CMOS says about the two drives of the first channel: index -> value (QEMU, hw/i386/pc.c)."""
    found = {0x12: 0, 0x39: 0}
    for number, drive in enumerate(drives):
        if drive is None:
            continue
        found[0x12] |= 0xF0 >> 4 * number
        found[0x19 + number] = 47  # a drive of the user's own kind, described at:
        low, high = drive.cylinders & 0xFF, drive.cylinders >> 8
        control = 0xC0 | (8 if drive.heads > 8 else 0)
        described = (low, high, drive.heads, 0xFF, 0xFF, control, low, high, drive.sectors)
        found |= {0x1B + 9 * number + place: value for place, value in enumerate(described)}
        found[0x39] |= drive.translation << 2 * number
    return found
