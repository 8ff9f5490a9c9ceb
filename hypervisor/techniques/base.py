"""What a technique decides, and nothing more: how the guest is made to trap.

The rest of the monitor works in the guest's terms and does not know which technique is in use.
"""

from __future__ import annotations

from typing import ClassVar


class Technique:
    """Base of all techniques."""

    name: ClassVar[str]
    intercepts: ClassVar[int]
    """Which events exit: the 64 bits at offset 0x0c of the VMCB (AMD APM 2, table B-1)."""
    one_byte_sites: ClassVar[frozenset[int]]
    two_byte_sites: ClassVar[frozenset[int]]
    """Opcodes (and second bytes after 0F) that must exit but cannot be intercepted on this CPU: they are
    found when a block is translated, and watched one by one."""
    site_names: ClassVar[frozenset[str]]
    """The same instructions by Capstone's names."""

    @staticmethod
    def real_ring(cpl: int) -> int:
        """The ring in which the emulated CPU runs the guest's privilege level ``cpl``."""
        raise NotImplementedError


TECHNIQUES: dict[str, type[Technique]] = {}


def technique(name: str) -> type[Technique]:
    """The technique of that name; KeyError if there is none."""
    return TECHNIQUES[name]


def register(cls: type[Technique]) -> type[Technique]:
    TECHNIQUES[cls.name] = cls
    return cls
