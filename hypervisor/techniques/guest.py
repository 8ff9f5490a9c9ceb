"""Guest mode: the guest's kernel runs in ring 0, and the VMCB says what exits.

IBM had it first: with S/370's *interpretive execution* (SIE, 1980) one instruction starts a guest that a
*state description* in storage defines, and the machine itself carries out its privileged instructions
until one comes up that the description's interception controls name (IBM SA22-7095; Osisek et al., "ESA/390
interpretive-execution architecture, foundation for VM/ESA", 1991). Twenty-five years later AMD's SVM
("Pacifica", 2005) and Intel's VT-x did the same for x86: VMRUN is SIE, the VMCB the state description, a
#VMEXIT an interception. Popek and Goldberg's condition is met again, not because the seventeen sensitive
instructions trap now, but because in guest mode they need not: the ring that they show is the right one.

So here the guest keeps its ring, and IF and IOPL are the real ones: CLI, STI, PUSHF, POPF, and every look
at CS and SS run at full speed and say what is true. Where an interrupt waits for IF, the CPU is asked to
exit as soon as it is set (V_IRQ with the VINTR intercept: an *interrupt window*).

What must be intercepted is what would read or change what is not the guest's: the control and debug
registers (paging is shadowed), the descriptor-table registers, MSRs, INVLPG, HLT, CPUID, RDTSC. The real
descriptor tables are empty, as under ``trap``: loads of segment registers and far transfers fault and are
emulated, and are exact for every guest that rewrites its tables in place; for this they need no intercept,
as SVM has none. LAR, LSL, VERR and VERW look into those tables without a fault: they are watched like the
port instructions, which ought to be intercepted by SVM's permission map, but are not on this CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hypervisor.techniques.base import ANY_FORM, Technique, both_forms, register
from hypervisor.techniques.trap import Trap

VERR, VERW = 4, 5
"""Values of the ModRM byte's reg field (Intel SDM 2, table A-6)."""
VINTR, INVLPG, MSR = (1 << bit for bit in (4, 25, 28))
DESCRIPTOR_TABLE_READS = 0xF << 6
DESCRIPTOR_TABLE_WRITES = 0xF << 10
"""IDTR, GDTR, LDTR, TR."""
CONTROL_REGISTERS = 0x001D
"""CR0, CR2, CR3, CR4. CLTS and LMSW write CR0, SMSW reads it."""
DEBUG_REGISTERS = 0x00FF


@register
class Guest(Technique):
    """Ring 0, and what the VMCB asks for."""

    name = "guest"
    intercepts = Trap.intercepts | (VINTR | INVLPG | MSR | DESCRIPTOR_TABLE_READS | DESCRIPTOR_TABLE_WRITES)
    control_intercepts = CONTROL_REGISTERS | CONTROL_REGISTERS << 16
    debug_intercepts = DEBUG_REGISTERS | DEBUG_REGISTERS << 16
    nested = True
    virtual_flags = 0
    forced_flags = 0
    one_byte_sites = Trap.one_byte_sites
    two_byte_sites: ClassVar[Mapping[int, int]] = {
        **Trap.two_byte_sites,
        0x00: both_forms(VERR, VERW),
        0x02: ANY_FORM,  # LAR
        0x03: ANY_FORM,  # LSL
    }
    site_names = Trap.site_names | frozenset(("lar", "lsl", "verr", "verw"))

    @staticmethod
    def real_ring(cpl: int) -> int:
        """Its own."""
        return cpl
