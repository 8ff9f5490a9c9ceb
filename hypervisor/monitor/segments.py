"""Loading segment registers for the guest, with the checks of its processor (Intel SDM 3A, 5.5-5.8).

The emulated CPU has no descriptor table at all, so every load of a segment register that is not null
faults and comes here. That makes the guest free to rewrite its tables in place: there is no copy that
could be stale, and no descriptor of ours that it could see.
"""

from __future__ import annotations

from hypervisor.hardware.faults import (
    GENERAL_PROTECTION,
    INVALID_OPCODE,
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
    MASK_32,
    SS,
)
from hypervisor.monitor.decode import (
    Instruction,
    Operand,
    load_operand,
    operand_address,
    store_general,
)
from hypervisor.monitor.vcpu import Hidden, VirtualCpu, descriptor_base, descriptor_limit, words

T_LDT = 2
T_TSS = 9
T_TSS_16 = 1
T_BUSY = 2


def load_data_segment(v: VirtualCpu, index: int, selector: int) -> None:
    """MOV to ES, DS, FS or GS in protected mode."""
    if selector & 0xFFFC == 0:
        v.cpu.set_segment(index, selector, 0, 0, 0)
        return
    descriptor = v.descriptor(selector)
    high = descriptor >> 32
    error = selector & 0xFFFC
    readable = high & D_SEGMENT and (not high & D_CODE or high & D_READABLE)
    if not readable:
        raise GuestFault(GENERAL_PROTECTION, error)
    conforming = high & D_CODE and high & D_CONFORMING
    dpl = high >> 13 & 3
    if not conforming and (dpl < v.cpl or dpl < selector & 3):
        raise GuestFault(GENERAL_PROTECTION, error)
    if not high & D_PRESENT:
        raise GuestFault(SEGMENT_NOT_PRESENT, error)
    high = v.touch_descriptor(selector, high)
    v.load_segment(index, selector, descriptor & MASK_32, high)


def check_stack_segment(v: VirtualCpu, selector: int, cpl: int, vector: int = GENERAL_PROTECTION) -> int:
    """The descriptor of a stack segment for ``cpl``; faults with ``vector`` (#TS when a TSS named it)."""
    error = selector & 0xFFFC
    if error == 0:
        raise GuestFault(vector, 0 if vector == GENERAL_PROTECTION else error)
    descriptor = v.descriptor(selector, vector)
    high = descriptor >> 32
    writable = high & D_SEGMENT and not high & D_CODE and high & D_WRITABLE
    if selector & 3 != cpl or high >> 13 & 3 != cpl or not writable:
        raise GuestFault(vector, error)
    if not high & D_PRESENT:
        raise GuestFault(STACK_FAULT, error)
    return descriptor


def load_stack_segment(v: VirtualCpu, selector: int) -> None:
    """MOV to SS in protected mode."""
    descriptor = check_stack_segment(v, selector, v.cpl)
    high = v.touch_descriptor(selector, descriptor >> 32)
    v.load_segment(SS, selector, descriptor & MASK_32, high)


def load_any(v: VirtualCpu, index: int, selector: int) -> None:
    if v.in_virtual_8086():
        v.cpu.set_segment(index, selector, selector << 4, 0xFFFF, 0xF300)
    elif index == SS:
        load_stack_segment(v, selector)
    else:
        load_data_segment(v, index, selector)


# -------------------------------------------------------------------- instructions


def mov_to_segment(v: VirtualCpu, i: Instruction) -> None:
    """MOV Sreg, r/m16."""
    target: Operand = i.operands[0]
    index = target.number
    if index == CS:
        raise GuestFault(INVALID_OPCODE)
    selector = load_operand(v, i, i.operands[1], 2)
    load_any(v, index, selector)
    if index == SS:
        v.holding = True


def pop_segment(v: VirtualCpu, i: Instruction) -> None:
    """POP ES, SS, DS, FS, GS."""
    target: Operand = i.operands[0]
    index = target.number
    top = v.cpu.general(ESP)
    mask = v.get_stack_mask()
    selector = v.load(v.linear(SS, top & mask), 2, v.is_user())
    load_any(v, index, selector)
    v.cpu.set_general(ESP, top & ~mask | (top + i.operand_size) & mask)
    if index == SS:
        v.holding = True


def load_far_pointer(v: VirtualCpu, i: Instruction) -> None:
    """LDS, LES, LFS, LGS, LSS."""
    index = {"lds": DS, "les": 0, "lfs": 4, "lgs": 5, "lss": SS}[i.name]
    target, source = i.operands
    at = operand_address(v, i, source)
    pointer = v.load(at, i.operand_size, v.user)
    selector = v.load(at + i.operand_size, 2, v.user)
    load_any(v, index, selector)
    store_general(v, target.number, i.operand_size, pointer)


# -------------------------------------------------------------------- system segments


def load_local_table(v: VirtualCpu, selector: int, vector: int = GENERAL_PROTECTION) -> None:
    """LLDT, and the LDT of a task that is switched to."""
    if selector & 0xFFFC == 0:
        v.ldtr = Hidden(selector)
        return
    error = selector & 0xFFFC
    if selector & 4:
        raise GuestFault(vector, error)
    low, high = words(v.descriptor(selector, vector))
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
    low, high = words(v.descriptor(selector))
    if high & D_SEGMENT or high >> 8 & 15 not in (T_TSS, T_TSS_16):
        raise GuestFault(GENERAL_PROTECTION, error)
    if not high & D_PRESENT:
        raise GuestFault(SEGMENT_NOT_PRESENT, error)
    high |= T_BUSY << 8
    v.store_descriptor_high(selector, high)
    v.tr = Hidden(selector, descriptor_base(low, high), descriptor_limit(low, high), high)
