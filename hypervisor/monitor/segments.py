"""Loading segment registers for the guest, with the checks of its processor (Intel SDM 3A, 5.5-5.8).

The emulated CPU has no descriptor table at all, so every load of a segment register that is not null
faults and comes here. That makes the guest free to rewrite its tables in place: there is no copy that
could be stale, and no descriptor of ours that it could see.
"""

from __future__ import annotations

from hypervisor.hardware.faults import (
    GENERAL_PROTECTION,
    INVALID_TSS,
    SEGMENT_NOT_PRESENT,
    STACK_FAULT,
    GuestFault,
)
from hypervisor.hardware.x86 import (
    CS,
    D_CODE,
    D_CONFORMING,
    D_PRESENT,
    D_READABLE,
    D_SEGMENT,
    D_WRITABLE,
    DS,
    ESP,
    SS,
)
from hypervisor.monitor.decode import (
    GENERAL,
    SEGMENTS,
    Instruction,
    effective_address,
    is_memory,
    store_general,
)
from hypervisor.monitor.vcpu import Hidden, VirtualCpu, descriptor_base, descriptor_limit

T_LDT = 2
T_TSS = 9
T_TSS_16 = 1
T_BUSY = 2


def load_data_segment(v: VirtualCpu, index: int, selector: int) -> None:
    """MOV to ES, DS, FS or GS in protected mode."""
    if selector & 0xFFFC == 0:
        v.cpu.set_segment(index, selector, 0, 0, 0)
        return
    low, high = v.descriptor(selector)
    error = selector & 0xFFFC
    readable = high & D_SEGMENT and (not high & D_CODE or high & D_READABLE)
    if not readable:
        raise GuestFault(GENERAL_PROTECTION, error)
    conforming = high & D_CODE and high & D_CONFORMING
    if not conforming and (high >> 13 & 3) < max(v.cpl, selector & 3):
        raise GuestFault(GENERAL_PROTECTION, error)
    if not high & D_PRESENT:
        raise GuestFault(SEGMENT_NOT_PRESENT, error)
    high = v.touch_descriptor(selector, high)
    v.load_segment(index, selector, low, high)


def check_stack_segment(
    v: VirtualCpu, selector: int, cpl: int, vector: int = GENERAL_PROTECTION
) -> tuple[int, int]:
    """The descriptor of a stack segment for ``cpl``; faults with ``vector`` (#TS when a TSS named it)."""
    error = selector & 0xFFFC
    if error == 0:
        raise GuestFault(vector, 0 if vector == GENERAL_PROTECTION else error)
    low, high = v.descriptor(selector, vector)
    writable = high & D_SEGMENT and not high & D_CODE and high & D_WRITABLE
    if selector & 3 != cpl or high >> 13 & 3 != cpl or not writable:
        raise GuestFault(vector, error)
    if not high & D_PRESENT:
        raise GuestFault(STACK_FAULT, error)
    return low, high


def load_stack_segment(v: VirtualCpu, selector: int) -> None:
    """MOV to SS in protected mode."""
    low, high = check_stack_segment(v, selector, v.cpl)
    high = v.touch_descriptor(selector, high)
    v.load_segment(SS, selector, low, high)


def load_any(v: VirtualCpu, index: int, selector: int) -> None:
    if v.virtual_8086:
        v.cpu.set_segment(index, selector, selector << 4, 0xFFFF, 0xF300)
    elif index == SS:
        load_stack_segment(v, selector)
    else:
        load_data_segment(v, index, selector)


# -------------------------------------------------------------------- instructions


def mov_to_segment(v: VirtualCpu, i: Instruction) -> None:
    """MOV Sreg, r/m16."""
    target, source = i.operands
    index = SEGMENTS[target.reg]
    if index == CS:
        raise GuestFault(6)
    if is_memory(source):
        segment, offset = effective_address(v, i, source)
        selector = v.load(v.linear(segment, offset), 2, v.user)
    else:
        selector = v.cpu.general(GENERAL[source.reg]) & 0xFFFF
    load_any(v, index, selector)
    if index == SS:
        v.hold_interrupts()


def pop_segment(v: VirtualCpu, i: Instruction) -> None:
    """POP ES, SS, DS, FS, GS."""
    index = SEGMENTS[i.operands[0].reg]
    top = v.cpu.general(ESP)
    selector = v.load(v.linear(SS, top & v.stack_mask), 2, v.user)
    mask = v.stack_mask
    load_any(v, index, selector)
    v.cpu.set_general(ESP, top & ~mask | (top + i.operand_size) & mask)
    if index == SS:
        v.hold_interrupts()


def load_far_pointer(v: VirtualCpu, i: Instruction) -> None:
    """LDS, LES, LFS, LGS, LSS."""
    index = {"lds": DS, "les": 0, "lfs": 4, "lgs": 5, "lss": SS}[i.name]
    target, source = i.operands
    segment, offset = effective_address(v, i, source)
    pointer = v.load(v.linear(segment, offset), i.operand_size, v.user)
    selector = v.load(v.linear(segment, offset + i.operand_size), 2, v.user)
    load_any(v, index, selector)
    store_general(v, GENERAL[target.reg], i.operand_size, pointer)


# -------------------------------------------------------------------- system segments


def load_local_table(v: VirtualCpu, selector: int, vector: int = GENERAL_PROTECTION) -> None:
    """LLDT, and the LDT of a task that is switched to."""
    if selector & 0xFFFC == 0:
        v.ldtr = Hidden(selector)
        return
    error = selector & 0xFFFC
    if selector & 4:
        raise GuestFault(vector, error)
    low, high = v.descriptor(selector, vector)
    if high & D_SEGMENT or high >> 8 & 15 != T_LDT:
        raise GuestFault(vector, error)
    if not high & D_PRESENT:
        raise GuestFault(SEGMENT_NOT_PRESENT if vector == GENERAL_PROTECTION else INVALID_TSS, error)
    v.ldtr = Hidden(selector, descriptor_base(low, high), descriptor_limit(low, high), high)


def load_task_register(v: VirtualCpu, selector: int) -> None:
    """LTR: the TSS becomes busy in memory."""
    error = selector & 0xFFFC
    if error == 0 or selector & 4:
        raise GuestFault(GENERAL_PROTECTION, error)
    low, high = v.descriptor(selector)
    if high & D_SEGMENT or high >> 8 & 15 not in (T_TSS, T_TSS_16):
        raise GuestFault(GENERAL_PROTECTION, error)
    if not high & D_PRESENT:
        raise GuestFault(SEGMENT_NOT_PRESENT, error)
    high |= T_BUSY << 8
    v.store_descriptor_high(selector, high)
    v.tr = Hidden(selector, descriptor_base(low, high), descriptor_limit(low, high), high)
