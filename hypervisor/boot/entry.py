"""How a boot protocol hands the machine to a kernel."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """The processor at a kernel's first instruction: protected mode, paging and interrupts off, flat segments."""

    eip: int
    general: dict[int, int] = field(default_factory=dict)
    """General registers by the number of their encoding; the others are 0."""
    code: int = 0x08
    """The selector in CS."""
    data: int = 0x10
    """The selector in the other segment registers."""
    gdt: tuple[int, int] = (0, 0xFFFF)
    """Base and limit of the GDT."""
