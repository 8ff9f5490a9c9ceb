"""Delivering exceptions and interrupts through the guest's own IDT (Intel SDM 3A, 6.12-6.15).

The emulated CPU never delivers anything: every event exits, and what the guest's processor would do
(gate and privilege checks, the switch to the inner stack, the frame, the flags) is done here.
"""

from __future__ import annotations

from hypervisor.hardware.faults import (
    CONTRIBUTORY,
    DOUBLE_FAULT,
    GENERAL_PROTECTION,
    INVALID_TSS,
    PAGE_FAULT,
    SEGMENT_NOT_PRESENT,
    WITH_ERROR_CODE,
    GuestFault,
    TripleFault,
)
from hypervisor.hardware.x86 import (
    CS,
    D_BIG,
    D_CODE,
    D_CONFORMING,
    D_PRESENT,
    D_SEGMENT,
    DS,
    ES,
    ESP,
    FS,
    GS,
    IF,
    MASK_32,
    NT,
    RF,
    SS,
    TF,
    VM,
)
from hypervisor.monitor import tasks
from hypervisor.monitor.segments import check_stack_segment
from hypervisor.monitor.stack import Stack
from hypervisor.monitor.tasks import inner_stack
from hypervisor.monitor.vcpu import VirtualCpu, descriptor_base, descriptor_limit

TASK_GATE = 5
GATE = 6
"""Type of a 16-bit interrupt gate. 8 more is a 32-bit one, 1 more a trap gate, which leaves IF alone."""
WIDE, TRAP = 8, 1
INTERRUPTS = IF

EXTERNAL = 1
"""In an error code with a selector: the event that could not be delivered was no INT n, INT3 or INTO (SDM 3A, 6.13)."""
NOT_FAULTS = frozenset((1, 8, 18))
"""Exceptions that do not restart the instruction: #DB as it occurs here is a trap, #DF and #MC are aborts."""


def raise_fault(v: VirtualCpu, fault: GuestFault) -> None:
    """Deliver an exception of the guest, and what goes wrong meanwhile: double fault, triple fault.

    EIP is at the instruction that faulted (or, for a trap, at the next). Raises TripleFault.
    """
    first: int | None = None
    while True:
        if fault.vector == PAGE_FAULT:
            v.cr2 = fault.address
        vector, error = combine(first, fault)
        code = error if vector in WITH_ERROR_CODE else None
        try:
            deliver(v, vector, code, software=False, restarts=vector not in NOT_FAULTS)
            return
        except GuestFault as second:
            first, fault = vector, second


def combine(first: int | None, fault: GuestFault) -> tuple[int, int]:
    """What ``fault`` becomes while exception ``first`` is being delivered (SDM 3A, table 6-5)."""
    second = fault.vector
    serious = second in CONTRIBUTORY or second == PAGE_FAULT
    if first == DOUBLE_FAULT and serious:
        raise TripleFault
    if (first in CONTRIBUTORY and second in CONTRIBUTORY) or (first == PAGE_FAULT and serious):
        return DOUBLE_FAULT, 0
    return second, fault.error


def deliver(
    v: VirtualCpu,
    vector: int,
    error: int | None,
    *,
    software: bool,
    following: int | None = None,
    restarts: bool = False,
) -> None:
    """Enter the guest's handler. ``following`` is the EIP to return to where it is not the current one;
    ``restarts``: the handler returns to an instruction that then runs again, which RF in the image says.

    Raises GuestFault if the guest's tables forbid it; then nothing has changed but memory below the
    stack pointer.
    """
    v.halted = False
    try:
        enter_gate(v, vector, error, software, following, RF if restarts else 0)
    except GuestFault as fault:
        if not software and fault.vector in CONTRIBUTORY:
            fault.error |= EXTERNAL
        raise


def enter_gate(
    v: VirtualCpu, vector: int, error: int | None, software: bool, following: int | None, resume: int
) -> None:
    """The gate of ``vector``, and what it leads to; ``resume`` is RF where EFLAGS are saved with it."""
    eip = v.cpu.get_eip() if following is None else following
    named = vector * 8 + 2
    if named + 5 > v.idt_limit:
        raise GuestFault(GENERAL_PROTECTION, named)
    low = v.load(v.idt_base + vector * 8, 4)
    high = v.load(v.idt_base + vector * 8 + 4, 4)
    kind = high >> 8 & 31
    if kind & ~(WIDE | TRAP) != GATE and kind != TASK_GATE:
        raise GuestFault(GENERAL_PROTECTION, named)
    if software and high >> 13 & 3 < v.cpl:
        raise GuestFault(GENERAL_PROTECTION, named)
    if not high & D_PRESENT:
        raise GuestFault(SEGMENT_NOT_PRESENT, named)
    if kind == TASK_GATE:
        tasks.switch(v, low >> 16, tasks.CALL, eip, error, resume)
        return
    size = 4 if kind & WIDE else 2
    offset = low & 0xFFFF | (high & ~0xFFFF if size == 4 else 0)
    enter_handler(v, low >> 16, offset, size, not kind & TRAP, eip, error, resume)


def enter_handler(
    v: VirtualCpu,
    selector: int,
    offset: int,
    size: int,
    clears: bool,
    eip: int,
    error: int | None,
    resume: int,
) -> None:
    named = selector & 0xFFFC
    if named == 0:
        raise GuestFault(GENERAL_PROTECTION)
    descriptor = v.descriptor(selector)
    low, high = descriptor & MASK_32, descriptor >> 32
    dpl = high >> 13 & 3
    if not high & D_SEGMENT or not high & D_CODE or dpl > v.cpl:
        raise GuestFault(GENERAL_PROTECTION, named)
    if not high & D_PRESENT:
        raise GuestFault(SEGMENT_NOT_PRESENT, named)
    flags = v.get_eflags()
    from_8086 = flags & VM != 0
    inner = not high & D_CONFORMING and dpl < v.cpl
    if from_8086 and (not inner or dpl != 0):
        raise GuestFault(GENERAL_PROTECTION, named)
    stack_low = stack_high = ss = 0
    if inner:
        pointer = inner_stack(v, dpl)
        ss, esp = pointer >> 32, pointer & MASK_32
        descriptor = check_stack_segment(v, ss, dpl, INVALID_TSS)
        stack_low, stack_high = descriptor & MASK_32, descriptor >> 32
        stack = Stack(
            v,
            descriptor_base(stack_low, stack_high),
            esp,
            MASK_32 if stack_high & D_BIG else 0xFFFF,
            dpl == 3,
        )
    else:
        stack = Stack.current(v)
    if offset > descriptor_limit(low, high):
        raise GuestFault(GENERAL_PROTECTION)
    if inner:
        if from_8086:
            for index in (GS, FS, DS, ES):
                stack.push(size, v.segment_selector(index))
        stack.push(size, v.segment_selector(SS))
        stack.push(size, v.cpu.general(ESP))
    stack.push(size, flags | resume)
    stack.push(size, v.segment_selector(CS))
    stack.push(size, eip)
    if error is not None:
        stack.push(size, error)
    high = v.touch_descriptor(selector, high)
    if inner:
        stack_high = v.touch_descriptor(ss, stack_high)
    # Nothing can fault from here on.
    v.set_eflags(flags & ~(TF | VM | NT | (INTERRUPTS if clears else 0)))
    if inner:
        v.cpl = dpl
        if from_8086:
            for index in (GS, FS, DS, ES):
                v.cpu.set_segment(index, 0, 0, 0, 0)
        v.load_segment(SS, ss, stack_low, stack_high)
    v.load_segment(CS, selector & ~3 | v.cpl, low, high)
    v.set_stack(stack.offset)
    v.cpu.set_eip(offset)
