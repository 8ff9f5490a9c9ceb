"""Guest-physical memory of the ISA PC: which address is RAM, and where that RAM is.

RAM begins at address 0 and has one hole, from 0xA0000 to 1 MiB, where a PC has its video memory and
ROMs. Of these only the text window of the VGA exists here; every other address reads as ones, as an
ISA bus does that nobody drives, and ignores stores.
"""

from __future__ import annotations

RAM_BASE = 16 << 20
"""Host-physical address of guest-physical 0: the monitor's memory lies below."""

_BASE = RAM_BASE

NOWHERE = -1

HOLE = 0xA0000
TEXT = 0xB8000
ROM = 0xC0000
HIGH = 0x100000


class PhysicalMap:
    """Where guest-physical addresses lie in host-physical memory."""

    def __init__(self, size: int) -> None:
        self.size = size

    def hpa(self, gpa: int) -> int:
        """Host-physical address of ``gpa``, or NOWHERE (-1)."""
        if gpa < HOLE or HIGH <= gpa < self.size or TEXT <= gpa < ROM:
            return _BASE + gpa
        return -1

    def regions(self) -> list[tuple[int, int]]:
        """(first address, size) of each piece of RAM, as the boot information reports it."""
        regions = [(0, HOLE)]
        if self.size > HIGH:
            regions.append((HIGH, self.size - HIGH))
        return regions
