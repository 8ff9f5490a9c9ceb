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
    MASK_32,
    NT,
    SS,
    VM,
)
from hypervisor.monitor.decode import store_general
from hypervisor.monitor.segments import (
    T_BUSY,
    T_TSS,
    T_TSS_16,
    check_stack_segment,
    load_data_segment,
    load_local_table,
)
from hypervisor.monitor.stack import Stack
from hypervisor.monitor.vcpu import Hidden, VirtualCpu, descriptor_base, descriptor_limit, words

JUMP, CALL, RETURN = range(3)

BACK_LINK = 0x00
PAGE_DIRECTORY = 0x1C
LOCAL_BREAKPOINTS = 0x155
"""Bits of DR7 that a task switch clears."""


class Layout:
    """Where the registers are in a TSS, 32-bit or 16-bit (SDM 3A, 7.2.1 and 7.6)."""

    def __init__(
        self, step: int, minimum_limit: int, eip: int, general: int, segment: int, segments: int, local: int
    ) -> None:
        self.step = step
        """Bytes from one field to the next: the size of a general register."""
        self.minimum_limit = minimum_limit
        self.eip = eip
        self.eflags = eip + step
        self.general = general
        self.segment = segment
        self.segments = segments
        """How many segment registers it has, from ES on."""
        self.local_table = local


WIDE = Layout(step=4, minimum_limit=0x67, eip=0x20, general=0x28, segment=0x48, segments=6, local=0x60)
NARROW = Layout(step=2, minimum_limit=0x2B, eip=0x0E, general=0x12, segment=0x22, segments=4, local=0x2A)


def layout(high: int) -> Layout:
    """That of a TSS, by the second word of its descriptor."""
    return WIDE if high >> 8 & 8 else NARROW


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
    if high & D_SEGMENT or high >> 8 & 15 & ~T_BUSY not in (T_TSS, T_TSS_16) or busy != (source == RETURN):
        raise GuestFault(vector, error)
    if not high & D_PRESENT:
        raise GuestFault(SEGMENT_NOT_PRESENT, error)
    limit = descriptor_limit(low, high)
    if limit < layout(high).minimum_limit:
        raise GuestFault(INVALID_TSS, error)
    return descriptor_base(low, high), limit, high


def save(v: VirtualCpu, following: int, flags: int) -> None:
    """Store the outgoing task's registers in its TSS."""
    base, fields = v.tr.base, layout(v.tr.high)
    v.store(base + fields.eip, fields.step, following)
    v.store(base + fields.eflags, fields.step, flags)
    for n in range(8):
        v.store(base + fields.general + fields.step * n, fields.step, v.cpu.general(n))
    for n in range(fields.segments):
        v.store(base + fields.segment + fields.step * n, 2, v.segment_selector(n))


def make_present(v: VirtualCpu, base: int, size: int) -> None:
    """Raise the page faults of stores to these bytes now: later there would be no way back."""
    for at in range(base, base + size, 4096):
        v.paging.host_address(at & MASK_32, True, False)
    v.paging.host_address(base + size - 1 & MASK_32, True, False)


def set_busy(v: VirtualCpu, selector: int, busy: bool) -> None:
    high = v.descriptor(selector) >> 32
    high = high | T_BUSY << 8 if busy else high & ~(T_BUSY << 8)
    v.store_descriptor_high(selector, high)


def switch(
    v: VirtualCpu, selector: int, source: int, following: int, error: int | None = None, resume: int = 0
) -> None:
    """Switch tasks (SDM 3A, 7.3). ``following`` is the EIP that the outgoing task resumes at, ``error`` an
    exception's code, ``resume`` RF if EFLAGS are to be saved with it.

    A fault while the new task's segments are loaded belongs to the new task.
    """
    base, limit, high = target(v, selector, source)
    old, new = layout(v.tr.high), layout(high)
    image = v.read(base, new.minimum_limit + 1)
    make_present(v, v.tr.base, old.minimum_limit + 1)
    make_present(v, base, 2)
    for descriptor in (v.tr.selector, selector):
        make_present(v, v.gdt_base + (descriptor & 0xFFF8), 8)

    def field(at: int, size: int = new.step) -> int:
        return int.from_bytes(image[at : at + size], "little")

    flags = v.eflags
    save(v, following & MASK_32, (flags & ~NT if source == RETURN else flags) | resume)
    if source != CALL:
        set_busy(v, v.tr.selector, False)
    if source == CALL:
        v.store(base + BACK_LINK, 2, v.tr.selector)
    if source != RETURN:
        set_busy(v, selector, True)
        high |= T_BUSY << 8
    v.tr = Hidden(selector, base, limit, high)
    directory = field(PAGE_DIRECTORY) if new is WIDE and v.cr0 >> 31 else v.cr3
    v.set_control(v.cr0 | CR0_TS, directory, v.cr4)
    v.debug[7] &= ~LOCAL_BREAKPOINTS
    new_flags = field(new.eflags) | (flags & ~0xFFFF if new is NARROW else 0)
    if source == CALL:
        new_flags |= NT
    if new is NARROW:
        new_flags &= ~VM
    v.eflags = new_flags & ~VM
    for n in range(8):
        store_general(v, n, new.step, field(new.general + new.step * n))
    v.cpu.set_eip(field(new.eip))
    selectors = [field(new.segment + new.step * n, 2) if n < new.segments else 0 for n in range(6)]
    local = field(new.local_table, 2)
    if new_flags & VM:
        enter_virtual_8086(v, new_flags, selectors, local)
    else:
        load_segments(v, selectors, local)
    if error is not None:
        stack = Stack.current(v)
        stack.push(new.step, error)
        v.set_stack(stack.offset)
    if v.cpu.get_eip() > v.cpu.segment_limit(CS):
        raise GuestFault(GENERAL_PROTECTION)


def enter_virtual_8086(v: VirtualCpu, flags: int, selectors: list[int], local: int) -> None:
    v.cpl = 3
    v.eflags = flags
    for n in range(6):
        v.cpu.set_segment(n, selectors[n], selectors[n] << 4, 0xFFFF, 0xFB00 if n == CS else 0xF300)
    load_local_table(v, local, INVALID_TSS)


def load_segments(v: VirtualCpu, selectors: list[int], local: int) -> None:
    """The incoming task's segment registers. Until each is checked it holds the selector, and nothing else.

    A fault meanwhile finds the new privilege level, and a stack of 64 KiB at address 0: a kernel that wants
    to handle it needs a task gate (SDM 3A, 6.15, interrupt 10).
    """
    v.cpl = cpl = selectors[CS] & 3
    v.set_segment(CS, selectors[CS], 0, 0, D_SEGMENT | D_CODE | cpl << 13)
    v.set_segment(SS, selectors[SS], 0, 0, D_SEGMENT | cpl << 13)
    for n in (ES, DS, FS, GS):
        v.cpu.set_segment(n, selectors[n], 0, 0, 0)
    load_local_table(v, local, INVALID_TSS)
    code = selectors[CS]
    if code & 0xFFFC == 0:
        raise GuestFault(INVALID_TSS, 0)
    low, high = words(v.descriptor(code, INVALID_TSS))
    dpl = high >> 13 & 3
    if not high & D_SEGMENT or not high & D_CODE or (dpl > cpl if high & D_CONFORMING else dpl != cpl):
        raise GuestFault(INVALID_TSS, code & 0xFFFC)
    if not high & D_PRESENT:
        raise GuestFault(SEGMENT_NOT_PRESENT, code & 0xFFFC)
    v.load_segment(CS, code, low, v.touch_descriptor(code, high))
    ss_low, ss_high = words(check_stack_segment(v, selectors[SS], cpl, INVALID_TSS))
    v.load_segment(SS, selectors[SS], ss_low, v.touch_descriptor(selectors[SS], ss_high))
    for n in (ES, DS, FS, GS):
        try:
            load_data_segment(v, n, selectors[n])
        except GuestFault as fault:
            if fault.vector == GENERAL_PROTECTION:
                raise GuestFault(INVALID_TSS, fault.error) from None
            raise
