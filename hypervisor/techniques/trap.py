"""Classic trap-and-emulate: the guest's kernel runs in ring 1.

The idea is as old as CP-67 and VM/370, and Popek and Goldberg (1974) said when it works: every
*sensitive* instruction must be *privileged*, so that it traps when a de-privileged kernel executes it.
On x86 it is not so. PUSHF, POPF, SGDT, SIDT, SLDT, STR, SMSW, LAR, LSL, VERR, VERW and every instruction
that shows the RPL in CS or SS run in ring 1 without a trap and do, or tell, the wrong thing (Robin and
Irvine, 2000). A kernel that avoids them runs under this technique without noticing; one that does not,
misbehaves. That is its lesson; the other techniques are ways out.

So what exits here is what the IDT of a monitor in the 1990s would have seen: exceptions and INT n. Two
intercepts are added in the spirit of the bargain, because the answers must not depend on the host: CPUID
and RDTSC (for which real monitors used CR4.TSD). PUSHF and its sisters stay as deaf as they were. IRET
would always fault by itself, since the emulated CPU has no descriptors to return to; but with NT set it
looks into a task state segment first, which is not the guest's, and with VM set in the image it enters
virtual-8086 mode from any ring (QEMU checks no privilege there), so it is intercepted as well.

Port instructions ought to trap when CPL > IOPL, and SYSENTER and SYSCALL be undefined; this emulated CPU
omits those checks, so they are watched where they occur in the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hypervisor.techniques.base import ANY_FORM, Technique, register

RDTSC, RDPMC, CPUID, RSM, IRET, INVD, HLT, INVLPGA = (1 << bit for bit in (14, 15, 18, 19, 20, 22, 24, 26))
SHUTDOWN, TASK_SWITCH = 1 << 31, 1 << 29
SVM_INSTRUCTIONS = 0x7F << 32
RDTSCP, ICEBP, WBINVD, MONITOR, MWAIT = (1 << bit for bit in (39, 40, 41, 42, 43))


@register
class Trap(Technique):
    """Ring 1, and what traps by itself."""

    name = "trap"
    intercepts = (RDTSC | RDPMC | CPUID | RSM | IRET | INVD | HLT | INVLPGA | SHUTDOWN | TASK_SWITCH) | (
        SVM_INSTRUCTIONS | RDTSCP | ICEBP | WBINVD | MONITOR | MWAIT
    )
    one_byte_sites: ClassVar[Mapping[int, int]] = dict.fromkeys(
        (0x6C, 0x6D, 0x6E, 0x6F, 0xE4, 0xE5, 0xE6, 0xE7, 0xEC, 0xED, 0xEE, 0xEF), ANY_FORM
    )
    two_byte_sites: ClassVar[Mapping[int, int]] = dict.fromkeys((0x05, 0x07, 0x34, 0x35), ANY_FORM)
    site_names = frozenset(
        ("in", "out", "insb", "insw", "insd", "outsb", "outsw", "outsd")
        + ("syscall", "sysret", "sysretl", "sysenter", "sysexit", "sysexitl")
    )

    @staticmethod
    def real_ring(cpl: int) -> int:
        """Ring 0 is compressed into ring 1, which the paging hardware also calls supervisor."""
        return max(cpl, 1)
