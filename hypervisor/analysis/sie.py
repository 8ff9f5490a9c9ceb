"""S/370's interpretive execution beside SVM: two descriptions of a guest's state, and what they let the host control.

Sources: IBM, "System/370 Extended Architecture Interpretive Execution" (SA22-7095); Osisek, Jackson and Gum,
"ESA/390 interpretive-execution architecture, foundation for VM/ESA" (IBM Systems Journal 30, 1, 1991); AMD APM 2,
chapter 15 and appendix B.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One matter, how each of the two deals with it, and what technique ``guest`` makes of it."""

    matter: str
    sie: str
    svm: str
    here: str


ROWS = (
    Row("entry", "SIE (B214), one operand: the state description", "VMRUN, one operand in rAX: the VMCB", "once; then runs resume"),
    Row("ends by", "an interception or a host interruption", "a #VMEXIT", "a #VMEXIT, reported by Unicorn's hook"),
    Row("who saves the host", "the host keeps its registers; GR 14 and 15 are swapped by SIE", "VM_HSAVE_PA holds what VMRUN replaces", "HSAVE, a frame of its own"),
    Row("guest's place and mode", "guest PSW", "RIP, RFLAGS, CS, CPL (0x4cb), EFER", "context image, checked at start-up"),
    Row("guest's registers", "GR 14 and 15; control registers 0 to 15; GR 0 to 13 stay in the CPU", "RAX, RSP, CR0, CR2, CR3, CR4, DR6, DR7, segments; the others stay in the CPU", "context image"),
    Row("guest's time", "CPU timer, clock comparator, epoch difference to the TOD clock", "TSC_OFFSET (0x50)", "RDTSC intercepted: time is counted in instructions"),
    Row("guest's storage", "main-storage origin and extent (preferred guest), or host segment tables (pageable guest)", "nested paging: NP_ENABLE (0x90), N_CR3 (0xb0)", "shadow tables, or nested ones (`--paging nested`)"),
    Row("translation by both", "guest tables, then host tables, by the machine", "the same with nested paging; else shadow tables by software", "either"),
    Row("translations kept apart", "by guest, tagged in the translation-lookaside buffer", "ASID (0x58), TLB_CONTROL (0x5c)", "one guest a CPU"),
    Row("accessed and changed", "reference and change preservation area: the guest's storage keys beside the host's", "Accessed and Dirty in the nested tables", "Dirty in the shadow tables; none in nested ones, which are write-protected"),
    Row("which instructions", "interception controls, a bit for a class of privileged instructions: LPSW, LCTL, SSK, ISK, RRB, ...", "vectors at 0x0c and 0x10, a bit an instruction", "HLT, CPUID, RDTSC, INVLPG, LGDT, SGDT, ..."),
    Row("by default", "privileged instructions are interpreted; those that need the host (SIE, SIGP, I/O) intercepted", "everything runs natively, but VMRUN, whose bit must be set", "what would show the monitor's own state exits"),
    Row("control registers", "LCTL and STCTL by a mask of the registers concerned", "a bit for each read and each write of CR0 to CR15 and DR0 to DR15 (0x00, 0x04)", "CR0, CR2, CR3, CR4, all DRs"),
    Row("exceptions", "program-interruption interception, all or none but for access exceptions", "a bit for each of 32 vectors (0x08)", "all 32, always"),
    Row("I/O", "always intercepted, until passthrough of subchannels for preferred guests (I/O assist)", "permission map, a bit a port (0x40)", "sites found in code: Unicorn leaves the check out"),
    Row("model-specific registers", "none", "permission map, two bits a register (0x48)", "all exit"),
    Row("interrupts for the guest", "intervention requests: exit as soon as the guest PSW allows", "V_IRQ with the VINTR intercept, V_TPR (0x60); EVENTINJ (0xa8)", "V_IRQ as an interrupt window; delivery is emulated"),
    Row("stopping the guest", "stop request in the state description, from another CPU", "an interrupt of the host (INTR intercept)", "a request checked at each block"),
    Row("why it ended", "interception code and the instruction's text", "EXITCODE (0x70), EXITINFO1 and 2 (0x78, 0x80), next RIP", "exit code; decoded with Capstone"),
    Row("event under way", "interruption parameters in the state description", "EXITINTINFO (0x88)", "none: events never are delivered by the CPU"),
    Row("a description that is wrong", "validity interception", "VMEXIT_INVALID (-1)", "refused at start-up"),
    Row("several CPUs", "system control area, shared by the state descriptions of a guest", "one VMCB a CPU, nothing shared", "one CPU"),
    Row("a guest that is a host", "SIE in a guest is interpreted too (VM under VM)", "VMRUN exits and is emulated; later virtual VMSAVE and GIF", "not offered: #UD"),
)  # fmt: skip


def markdown() -> str:
    """The table as it stands in the tutorials."""
    lines = ["| | SIE's state description | SVM's VMCB | technique `guest` here |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in ROWS)])
