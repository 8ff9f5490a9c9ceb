"""What a technique decides, and nothing more: how the guest is made to trap.

The rest of the monitor works in the guest's terms and does not know which technique is in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hypervisor.hardware.x86 import IF, IOPL

ANY_FORM = 1 << 8
REGISTER_FORMS = 16


def memory_forms(*numbers: int) -> int:
    """The forms of an opcode with these values in the ModRM byte's reg field, and an operand in memory."""
    return sum(1 << number for number in numbers)


def both_forms(*numbers: int) -> int:
    """Those with an operand in memory or in a register."""
    forms = memory_forms(*numbers)
    return forms | forms << REGISTER_FORMS


class Technique:
    """Base of all techniques. What it says here is right for a guest kernel outside of ring 0."""

    name: ClassVar[str]
    intercepts: ClassVar[int]
    """Which events exit: the 64 bits at offset 0x0c of the VMCB (AMD APM 2, table B-1)."""
    control_intercepts: ClassVar[int] = 0
    """Which accesses to CR0-CR15 exit: the 32 bits at offset 0, reads in the lower half, writes in the upper."""
    debug_intercepts: ClassVar[int] = 0
    """Which accesses to DR0-DR15 exit: the 32 bits at offset 4, likewise."""
    virtual_flags: ClassVar[int] = IF | IOPL
    """EFLAGS bits that the monitor keeps, because the guest cannot change the real ones as it believes to."""
    forced_flags: ClassVar[int] = IF
    """EFLAGS bits that are always set in the real register."""
    one_byte_sites: ClassVar[Mapping[int, int]]
    two_byte_sites: ClassVar[Mapping[int, int]]
    """Opcodes (and second bytes after 0F) that must exit but cannot be intercepted on this CPU, with the forms
    that matter (ANY_FORM, ``memory_forms``, ``both_forms``): they are found when a block is translated, and
    watched one by one."""
    site_names: ClassVar[frozenset[str]]
    """The same instructions by Capstone's names."""
    successor: ClassVar[type[Technique] | None] = None
    """What takes over, for good, as soon as an instruction is found that only it watches. It may differ from this
    technique in its sites alone."""

    nested: ClassVar[bool] = False
    """Does nested paging go with it?"""

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
