"""Hardware tasks: the TSS, its stacks, and task switches (Intel SDM 3A, chapter 7).

A task switch is a long list of loads and stores and a few rules about the busy bit and NT; kernels use
it at most for their double-fault handler, so it is all emulated here.
"""

from __future__ import annotations

from hypervisor.hardware.faults import (
    GENERAL_PROTECTION,
    INVALID_TSS,
    SEGMENT_NOT_PRESENT,
    GuestFault,
)
from hypervisor.hardware.x86 import (
    CR0_TS,
    CS,
    D_CODE,
    D_CONFORMING,
    D_PRESENT,
    D_SEGMENT,
    DS,
    ES,
    FS,
    GS,
    NT,
    SS,
    VM,
)
from hypervisor.monitor.segments import (
    T_BUSY,
    T_TSS,
    check_stack_segment,
    load_data_segment,
    load_local_table,
)
from hypervisor.monitor.vcpu import Hidden, VirtualCpu, descriptor_base, descriptor_limit, words

JUMP, CALL, RETURN = range(3)

MINIMUM_LIMIT = 0x67
BACK_LINK = 0x00
PAGE_DIRECTORY = 0x1C
EIP = 0x20
EFLAGS = 0x24
GENERAL = 0x28
SEGMENT = 0x48
LOCAL_TABLE = 0x60


def inner_stack(v: VirtualCpu, level: int) -> int:
    """SS << 32 | ESP that the current TSS holds for a privilege level. Raises #TS if it lies beyond the TSS."""
    tss = v.tr
    if not tss.high:
        raise GuestFault(INVALID_TSS, tss.selector & 0xFFFC)
    wide = tss.high >> 8 & 8
    offset = level * 8 + 4 if wide else level * 4 + 2
    if offset + (7 if wide else 3) > tss.limit:
        raise GuestFault(INVALID_TSS, tss.selector & 0xFFFC)
    if wide:
        ss, esp = v.load(tss.base + offset + 4, 2), v.load(tss.base + offset, 4)
    else:
        ss, esp = v.load(tss.base + offset + 2, 2), v.load(tss.base + offset, 2)
    return ss << 32 | esp


def switch_back(v: VirtualCpu, following: int) -> None:
    """IRET with NT set: to the task that the back link names."""
    if not v.tr.high:
        raise GuestFault(INVALID_TSS, 0)
    selector = v.load(v.tr.base + BACK_LINK, 2)
    switch(v, selector, RETURN, following)


def target(v: VirtualCpu, selector: int, source: int) -> tuple[int, int, int]:
    """(base, limit, second word) of the TSS to switch to."""
    vector = INVALID_TSS if source == RETURN else GENERAL_PROTECTION
    error = selector & 0xFFFC
    if selector & 4 or error == 0:
        raise GuestFault(vector, error)
    low, high = words(v.descriptor(selector, vector))
    busy = high >> 8 & T_BUSY != 0
    if high & D_SEGMENT or high >> 8 & 15 & ~T_BUSY != T_TSS or busy != (source == RETURN):
        raise GuestFault(vector, error)
    if not high & D_PRESENT:
        raise GuestFault(SEGMENT_NOT_PRESENT, error)
    limit = descriptor_limit(low, high)
    if limit < MINIMUM_LIMIT:
        raise GuestFault(INVALID_TSS, error)
    return descriptor_base(low, high), limit, high


def save(v: VirtualCpu, following: int, flags: int) -> None:
    """Store the outgoing task's registers in its TSS."""
    base = v.tr.base
    v.store(base + EIP, 4, following)
    v.store(base + EFLAGS, 4, flags)
    for n in range(8):
        v.store(base + GENERAL + 4 * n, 4, v.cpu.general(n))
    for n in range(6):
        v.store(base + SEGMENT + 4 * n, 2, v.segment(n)[0])


def set_busy(v: VirtualCpu, selector: int, busy: bool) -> None:
    high = v.descriptor(selector) >> 32
    high = high | T_BUSY << 8 if busy else high & ~(T_BUSY << 8)
    v.store_descriptor_high(selector, high)


def switch(v: VirtualCpu, selector: int, source: int, following: int, error: int | None = None) -> None:
    """Switch tasks; ``following`` is the EIP that the outgoing task resumes at, ``error`` an exception's code.

    A fault while the new task's segments are loaded belongs to the new task (SDM 3A, 7.3).
    """
    if v.tr.high >> 8 & 8 == 0:
        raise GuestFault(INVALID_TSS, v.tr.selector & 0xFFFC)
    base, limit, high = target(v, selector, source)
    image = v.read(base, MINIMUM_LIMIT + 1)

    def field(at: int) -> int:
        return int.from_bytes(image[at : at + 4], "little")

    flags = v.eflags
    save(v, following & 0xFFFFFFFF, flags & ~NT if source == RETURN else flags)
    if source != CALL:
        set_busy(v, v.tr.selector, False)
    if source == CALL:
        v.store(base + BACK_LINK, 2, v.tr.selector)
    if source != RETURN:
        set_busy(v, selector, True)
        high |= T_BUSY << 8
    v.tr = Hidden(selector, base, limit, high)
    v.set_control(v.cr0 | CR0_TS, field(PAGE_DIRECTORY) if v.cr0 >> 31 else v.cr3, v.cr4)
    new_flags = field(EFLAGS) | (NT if source == CALL else 0)
    v.eflags = new_flags & ~VM
    for n in range(8):
        v.cpu.set_general(n, field(GENERAL + 4 * n))
    v.cpu.set_eip(field(EIP))
    selectors = [field(SEGMENT + 4 * n) & 0xFFFF for n in range(6)]
    v.cpl = selectors[CS] & 3
    if new_flags & VM:
        v.cpl = 3
        v.eflags = new_flags
        for n in range(6):
            v.cpu.set_segment(n, selectors[n], selectors[n] << 4, 0xFFFF, 0xFB00 if n == CS else 0xF300)
        load_local_table(v, field(LOCAL_TABLE) & 0xFFFF, INVALID_TSS)
    else:
        load_segments(v, selectors, field(LOCAL_TABLE) & 0xFFFF)
    if error is not None:
        v.set_stack(v.cpu.general(4) - 4)
        v.store(v.linear(SS, v.cpu.general(4) & v.stack_mask), 4, error, v.user)


def load_segments(v: VirtualCpu, selectors: list[int], local: int) -> None:
    """The incoming task's segment registers, all null until each is checked."""
    for n in (ES, DS, FS, GS):
        v.cpu.set_segment(n, selectors[n], 0, 0, 0)
    load_local_table(v, local, INVALID_TSS)
    code = selectors[CS]
    if code & 0xFFFC == 0:
        raise GuestFault(INVALID_TSS, 0)
    low, high = words(v.descriptor(code, INVALID_TSS))
    dpl = high >> 13 & 3
    if not high & D_SEGMENT or not high & D_CODE or (dpl > v.cpl if high & D_CONFORMING else dpl != v.cpl):
        raise GuestFault(INVALID_TSS, code & 0xFFFC)
    if not high & D_PRESENT:
        raise GuestFault(SEGMENT_NOT_PRESENT, code & 0xFFFC)
    ss_low, ss_high = words(check_stack_segment(v, selectors[SS], v.cpl, INVALID_TSS))
    v.load_segment(SS, selectors[SS], ss_low, v.touch_descriptor(selectors[SS], ss_high))
    v.load_segment(CS, code, low, v.touch_descriptor(code, high))
    for n in (ES, DS, FS, GS):
        try:
            load_data_segment(v, n, selectors[n])
        except GuestFault as fault:
            if fault.vector == GENERAL_PROTECTION:
                raise GuestFault(INVALID_TSS, fault.error) from None
            raise
