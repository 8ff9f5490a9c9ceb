"""Patching: the kernel runs in ring 1, as under ``trap``, and what would not trap there is made to.

Before there was hardware help, a monitor that met x86's seventeen sensitive, unprivileged instructions had to
find them before they ran and put something that traps in their place: plex86 (Lawton, 1999) scanned code ahead
and planted breakpoints, VirtualBox's raw mode (2007) patched guest kernels in memory, VMware (1998) rewrote
them by binary translation. All paid for the same difficulty: on x86 nobody knows where an instruction begins
until it is executed, and the guest can read, checksum and overwrite its own code.

Here the scan comes where the emulated CPU itself decides what is an instruction: when it translates a block.
A new block is announced before it runs for the first time (see monitor/sites.py), and again whenever its
code was written to; what is found in it is *watched*: the translation made of it leaves the guest before that
instruction. So the trap is planted in the translation, and not a byte of the guest's memory is changed.
Nothing has to be hidden from its loads, restored in what is saved or sent, or taken out for a debugger, and no
jump into the middle of a patch can find half of it. That is all that a patch in place could do, exactly.

What exits is emulated on the virtual registers. PUSHF and POPF know the virtual IF and IOPL; MOV and PUSH of
CS and SS the virtual ring; SGDT, SIDT, SLDT, STR and SMSW the virtual registers; LAR, LSL, VERR and VERW look into
the guest's tables. The far transfers and INT need no patch: with no real descriptors, they fault anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hypervisor.techniques.base import ANY_FORM, Technique, both_forms, memory_forms, register
from hypervisor.techniques.trap import Trap

CS, SS = 1, 2
SLDT, STR, VERR, VERW = 0, 1, 4, 5
SGDT, SIDT, SMSW = 0, 1, 4
"""Values of the ModRM byte's reg field (Intel SDM 2, table A-6)."""


@register
class Patch(Technique):
    """Ring 1, and what does not trap there is found before it runs."""

    name = "patch"
    intercepts = Trap.intercepts
    one_byte_sites: ClassVar[Mapping[int, int]] = {
        **Trap.one_byte_sites,
        0x0E: ANY_FORM,  # PUSH CS
        0x16: ANY_FORM,  # PUSH SS
        0x8C: both_forms(CS, SS),  # MOV from them
        0x9C: ANY_FORM,  # PUSHF
        0x9D: ANY_FORM,  # POPF
    }
    two_byte_sites: ClassVar[Mapping[int, int]] = {
        **Trap.two_byte_sites,
        0x00: both_forms(SLDT, STR, VERR, VERW),
        0x01: memory_forms(SGDT, SIDT) | both_forms(SMSW),
        0x02: ANY_FORM,  # LAR
        0x03: ANY_FORM,  # LSL
    }
    site_names = Trap.site_names | frozenset(
        ("pushf", "pushfd", "popf", "popfd", "push", "mov", "sgdt", "sidt", "sldt", "str", "smsw")
        + ("lar", "lsl", "verr", "verw")
    )

    @staticmethod
    def real_ring(cpl: int) -> int:
        """As under ``trap``."""
        return Trap.real_ring(cpl)
