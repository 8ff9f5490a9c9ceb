"""Emulation of the instructions that show the machine's state without a trap (Intel SDM 2).

Robin and Irvine ("Analysis of the Intel Pentium's Ability to Support a Secure Virtual Machine Monitor",
2000) list seventeen instructions of x86 that are sensitive but not privileged. PUSHF, POPF and the far
transfers are emulated with their trapping forms in ``privileged`` and ``transfer``; here are those that read
the descriptor-table registers, the machine status word, descriptors, and the ring in CS and SS. They come
here only where a technique makes them exit.
"""

from __future__ import annotations

from hypervisor.hardware.faults import GENERAL_PROTECTION, INVALID_OPCODE, GuestFault
from hypervisor.hardware.x86 import (
    D_CODE,
    D_CONFORMING,
    D_READABLE,
    D_SEGMENT,
    D_WRITABLE,
    ZF,
)
from hypervisor.monitor.decode import (
    Instruction,
    Operand,
    is_memory,
    load_operand,
    operand_address,
    store_general,
)
from hypervisor.monitor.stack import Stack
from hypervisor.monitor.vcpu import VirtualCpu, descriptor_limit, words

SHOWN_BY_LAR = frozenset((1, 2, 3, 4, 5, 9, 11, 12))
"""Types of system descriptors whose rights LAR tells: TSSs, LDTs, call gates, task gates."""
SHOWN_BY_LSL = frozenset((1, 2, 3, 9, 11))
"""Those that have a limit."""
RIGHTS = 0x00F0FF00
"""What LAR takes from a descriptor's second word."""


def store(v: VirtualCpu, i: Instruction, value: int) -> None:
    """To a register of the operand's size, or two bytes to memory."""
    target: Operand = i.operands[0]
    if is_memory(target):
        v.store(operand_address(v, i, target), 2, value & 0xFFFF, v.user)
    else:
        store_general(v, target.number, i.operand_size, value)


def require_protected_mode(v: VirtualCpu) -> None:
    if v.virtual_8086:
        raise GuestFault(INVALID_OPCODE)


# -------------------------------------------------------------------- registers of the system


def store_table(v: VirtualCpu, i: Instruction, limit: int, base: int) -> None:
    at = operand_address(v, i, i.operands[0])
    image = limit | (base if i.operand_size == 4 else base & 0xFFFFFF) << 16
    v.write(at, image.to_bytes(6, "little"), v.user)


def sgdt(v: VirtualCpu, i: Instruction) -> None:
    store_table(v, i, v.gdt_limit, v.gdt_base)


def sidt(v: VirtualCpu, i: Instruction) -> None:
    store_table(v, i, v.idt_limit, v.idt_base)


def sldt(v: VirtualCpu, i: Instruction) -> None:
    require_protected_mode(v)
    store(v, i, v.ldtr.selector)


def store_task_register(v: VirtualCpu, i: Instruction) -> None:
    """STR."""
    require_protected_mode(v)
    store(v, i, v.tr.selector)


def smsw(v: VirtualCpu, i: Instruction) -> None:
    """All of CR0 to a 32-bit register, its lower half elsewhere."""
    store(v, i, v.cr0)


# -------------------------------------------------------------------- what a selector would give


def visible(v: VirtualCpu, selector: int) -> tuple[int, int] | None:
    """The descriptor if it lies within its table, else None."""
    if selector & 0xFFFC == 0:
        return None
    try:
        return words(v.descriptor(selector))
    except GuestFault as fault:
        if fault.vector != GENERAL_PROTECTION:
            raise
        return None


def reachable(v: VirtualCpu, selector: int, high: int) -> bool:
    """Is a descriptor's DPL not below the current and the requested privilege level?"""
    conforming = high & D_SEGMENT and high & D_CODE and high & D_CONFORMING
    return bool(conforming) or high >> 13 & 3 >= max(v.cpl, selector & 3)


def answer(v: VirtualCpu, yes: bool) -> None:
    v.eflags = v.eflags & ~ZF | (ZF if yes else 0)


def shown(v: VirtualCpu, i: Instruction, system_kinds: frozenset[int]) -> tuple[int, int] | None:
    """The descriptor that LAR or LSL asks for, if it may see it."""
    require_protected_mode(v)
    selector = load_operand(v, i, i.operands[1], 2)
    found = visible(v, selector)
    if found is None or not reachable(v, selector, found[1]):
        return None
    return found if found[1] & D_SEGMENT or found[1] >> 8 & 15 in system_kinds else None


def lar(v: VirtualCpu, i: Instruction) -> None:
    found = shown(v, i, SHOWN_BY_LAR)
    if found is not None:
        store_general(v, i.operands[0].number, i.operand_size, found[1] & RIGHTS)
    answer(v, found is not None)


def lsl(v: VirtualCpu, i: Instruction) -> None:
    found = shown(v, i, SHOWN_BY_LSL)
    if found is not None:
        store_general(v, i.operands[0].number, i.operand_size, descriptor_limit(*found))
    answer(v, found is not None)


def verr(v: VirtualCpu, i: Instruction) -> None:
    require_protected_mode(v)
    selector = load_operand(v, i, i.operands[0], 2)
    found = visible(v, selector)
    answer(
        v,
        found is not None
        and bool(found[1] & D_SEGMENT)
        and bool(not found[1] & D_CODE or found[1] & D_READABLE)
        and reachable(v, selector, found[1]),
    )


def verw(v: VirtualCpu, i: Instruction) -> None:
    require_protected_mode(v)
    selector = load_operand(v, i, i.operands[0], 2)
    found = visible(v, selector)
    answer(
        v,
        found is not None
        and found[1] & (D_SEGMENT | D_CODE | D_WRITABLE) == D_SEGMENT | D_WRITABLE
        and reachable(v, selector, found[1]),
    )


# -------------------------------------------------------------------- the ring in CS and SS


def mov_from_segment(v: VirtualCpu, i: Instruction) -> None:
    """MOV r/m16, Sreg."""
    store(v, i, v.segment_selector(i.operands[1].number))


def push_segment(v: VirtualCpu, i: Instruction) -> None:
    stack = Stack.current(v)
    stack.push(i.operand_size, v.segment_selector(i.operands[0].number))
    v.set_stack(stack.offset)
