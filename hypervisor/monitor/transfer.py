"""Far control transfers for the guest: JMP, CALL, RET and IRET between segments and privilege levels.

Intel SDM 2 under each instruction, and SDM 3A, 5.8. All checks and all stores come before the first
register is changed, so that a fault leaves the guest at the instruction.
"""

from __future__ import annotations

from hypervisor.hardware.faults import (
    GENERAL_PROTECTION,
    INVALID_TSS,
    SEGMENT_NOT_PRESENT,
    GuestFault,
)
from hypervisor.hardware.x86 import (
    AC,
    CS,
    D_BIG,
    D_CODE,
    D_CONFORMING,
    D_PRESENT,
    D_SEGMENT,
    DF,
    DS,
    ES,
    ESP,
    FS,
    GS,
    ID,
    IF,
    IOPL,
    MASK_32,
    NT,
    SS,
    TF,
    VM,
)
from hypervisor.monitor import tasks
from hypervisor.monitor.decode import Instruction, is_memory, operand_address
from hypervisor.monitor.segments import check_stack_segment
from hypervisor.monitor.stack import Stack
from hypervisor.monitor.vcpu import VirtualCpu, descriptor_base, descriptor_limit, words

DONE = True
"""What a handler returns that has set EIP itself."""

T_CALL_16, T_TASK_GATE, T_CALL = 4, 5, 12
TSS_TYPES = (1, 3, 9, 11)

ARITHMETIC = 0x8D5
ALWAYS = ARITHMETIC | TF | DF | NT | AC | ID
"""Flags that anybody may change."""
INTERRUPTS = IF


def check_code(v: VirtualCpu, selector: int, cpl: int, rpl_counts: bool) -> int:
    """The descriptor of a code segment for a transfer that stays at ``cpl``."""
    error = selector & 0xFFFC
    if error == 0:
        raise GuestFault(GENERAL_PROTECTION)
    descriptor = v.descriptor(selector)
    high = descriptor >> 32
    if not high & D_SEGMENT or not high & D_CODE:
        raise GuestFault(GENERAL_PROTECTION, error)
    dpl = high >> 13 & 3
    if high & D_CONFORMING:
        if dpl > cpl:
            raise GuestFault(GENERAL_PROTECTION, error)
    elif dpl != cpl or (rpl_counts and selector & 3 > cpl):
        raise GuestFault(GENERAL_PROTECTION, error)
    if not high & D_PRESENT:
        raise GuestFault(SEGMENT_NOT_PRESENT, error)
    return descriptor


def check_offset(descriptor: int, eip: int) -> None:
    """Raise #GP(0) if an EIP is beyond a code segment's limit."""
    if eip > descriptor_limit(descriptor & MASK_32, descriptor >> 32):
        raise GuestFault(GENERAL_PROTECTION)


def enter(v: VirtualCpu, selector: int, descriptor: int, eip: int) -> None:
    """Load CS at the current privilege level and EIP."""
    check_offset(descriptor, eip)
    low, high = descriptor & MASK_32, descriptor >> 32
    high = v.touch_descriptor(selector, high)
    v.load_segment(CS, selector & ~3 | v.cpl, low, high)
    v.cpu.set_eip(eip)


def real_mode_style(v: VirtualCpu, selector: int, eip: int) -> None:
    v.cpu.set_segment(CS, selector, selector << 4, 0xFFFF, 0xFB00)
    v.cpu.set_eip(eip & 0xFFFF)


def far_target(v: VirtualCpu, i: Instruction) -> tuple[int, int]:
    """(selector, offset) of a far JMP or CALL, immediate or in memory."""
    if is_memory(i.operands[0]):
        at = operand_address(v, i, i.operands[0])
        target = v.load(at, i.operand_size, v.user)
        return v.load(at + i.operand_size, 2, v.user), target
    selector, target = i.operands[0].value, i.operands[1].value
    return selector & 0xFFFF, target & (0xFFFF if i.operand_size == 2 else 0xFFFFFFFF)


def system_descriptor(v: VirtualCpu, selector: int) -> tuple[int, int] | None:
    """The descriptor of a gate or TSS, or None if the selector names a code or data segment."""
    if selector & 0xFFFC == 0:
        raise GuestFault(GENERAL_PROTECTION)
    low, high = words(v.descriptor(selector))
    return None if high & D_SEGMENT else (low, high)


def check_gate(v: VirtualCpu, selector: int, high: int) -> None:
    if high >> 13 & 3 < max(v.cpl, selector & 3):
        raise GuestFault(GENERAL_PROTECTION, selector & 0xFFFC)
    # Whether a TSS is there is asked after whether it is busy, by the task switch (SDM 2, JMP).
    if not high & D_PRESENT and high >> 8 & 15 not in TSS_TYPES:
        raise GuestFault(SEGMENT_NOT_PRESENT, selector & 0xFFFC)


def far_jump(v: VirtualCpu, i: Instruction) -> bool:
    """JMP ptr16:32 and JMP m16:32."""
    selector, target = far_target(v, i)
    if v.virtual_8086:
        real_mode_style(v, selector, target)
        return DONE
    system = system_descriptor(v, selector)
    if system is None:
        enter(v, selector, check_code(v, selector, v.cpl, True), target)
        return DONE
    low, high = system
    kind = high >> 8 & 15
    if kind in TSS_TYPES or kind == T_TASK_GATE:
        check_gate(v, selector, high)
        tss = low >> 16 if kind == T_TASK_GATE else selector
        tasks.switch(v, tss, tasks.JUMP, v.cpu.get_eip() + i.size)
    elif kind in (T_CALL, T_CALL_16):
        check_gate(v, selector, high)
        code = low >> 16
        offset = low & 0xFFFF | (high & 0xFFFF0000 if kind == T_CALL else 0)
        enter(v, code, check_code(v, code, v.cpl, False), offset)
    else:
        raise GuestFault(GENERAL_PROTECTION, selector & 0xFFFC)
    return DONE


def far_call(v: VirtualCpu, i: Instruction) -> bool:
    """CALL ptr16:32 and CALL m16:32."""
    selector, target = far_target(v, i)
    following = v.cpu.get_eip() + i.size & 0xFFFFFFFF
    here = v.segment_selector(CS)
    stack = Stack.current(v)
    if v.virtual_8086:
        stack.push(i.operand_size, here)
        stack.push(i.operand_size, following)
        v.set_stack(stack.offset)
        real_mode_style(v, selector, target)
        return DONE
    system = system_descriptor(v, selector)
    if system is None:
        descriptor = check_code(v, selector, v.cpl, True)
        check_offset(descriptor, target)
        stack.push(i.operand_size, here)
        stack.push(i.operand_size, following)
        enter(v, selector, descriptor, target)
        v.set_stack(stack.offset)
        return DONE
    low, high = system
    kind = high >> 8 & 15
    if kind in TSS_TYPES or kind == T_TASK_GATE:
        check_gate(v, selector, high)
        tss = low >> 16 if kind == T_TASK_GATE else selector
        tasks.switch(v, tss, tasks.CALL, following)
    elif kind in (T_CALL, T_CALL_16):
        check_gate(v, selector, high)
        call_gate(v, low, high, here, following)
    else:
        raise GuestFault(GENERAL_PROTECTION, selector & 0xFFFC)
    return DONE


def call_gate(v: VirtualCpu, gate_low: int, gate_high: int, here: int, following: int) -> None:
    """CALL through a call gate, to the same or a more privileged level (SDM 3A, 5.8.4-5.8.5)."""
    code = gate_low >> 16
    wide = gate_high >> 8 & 15 == T_CALL
    size = 4 if wide else 2
    target = gate_low & 0xFFFF | (gate_high & 0xFFFF0000 if wide else 0)
    if code & 0xFFFC == 0:
        raise GuestFault(GENERAL_PROTECTION)
    descriptor = v.descriptor(code)
    low, high = words(descriptor)
    dpl = high >> 13 & 3
    if not high & D_SEGMENT or not high & D_CODE or dpl > v.cpl:
        raise GuestFault(GENERAL_PROTECTION, code & 0xFFFC)
    if not high & D_PRESENT:
        raise GuestFault(SEGMENT_NOT_PRESENT, code & 0xFFFC)
    old = Stack.current(v)
    if high & D_CONFORMING or dpl == v.cpl:
        check_offset(descriptor, target)
        old.push(size, here)
        old.push(size, following)
        enter(v, code, descriptor, target)
        v.set_stack(old.offset)
        return
    esp, ss = words(tasks.inner_stack(v, dpl))
    ss_low, ss_high = words(check_stack_segment(v, ss, dpl, INVALID_TSS))
    mask = 0xFFFFFFFF if ss_high & D_BIG else 0xFFFF
    new = Stack(v, descriptor_base(ss_low, ss_high), esp, mask, dpl == 3)
    check_offset(descriptor, target)
    new.push(size, v.segment_selector(SS))
    new.push(size, v.cpu.general(ESP))
    for n in range((gate_high & 31) - 1, -1, -1):  # one after the other: the stacks may overlap
        new.push(size, old.peek(n * size, size))
    new.push(size, here)
    new.push(size, following)
    ss_high = v.touch_descriptor(ss, ss_high)
    high = v.touch_descriptor(code, high)
    v.cpl = dpl
    v.load_segment(SS, ss, ss_low, ss_high)
    v.load_segment(CS, code & ~3 | dpl, low, high)
    v.set_stack(new.offset)
    v.cpu.set_eip(target)


def far_return(v: VirtualCpu, i: Instruction) -> bool:
    """RETF and RETF imm16."""
    release = i.operands[0].value & 0xFFFF if i.operands else 0
    stack = Stack.current(v)
    eip = stack.pop(i.operand_size)
    selector = stack.pop(i.operand_size) & 0xFFFF
    stack.skip(release)
    if v.virtual_8086:
        v.set_stack(stack.offset)
        real_mode_style(v, selector, eip)
    else:
        return_to(v, stack, selector, eip, i.operand_size, None, release)
    return DONE


def interrupt_return(v: VirtualCpu, i: Instruction) -> bool:
    """IRET in all its forms: same level, outer level, to virtual-8086 mode, to the previous task."""
    size = i.operand_size
    stack = Stack.current(v)
    if v.in_virtual_8086():
        if v.get_iopl() != 3:
            raise GuestFault(GENERAL_PROTECTION)
        eip, selector, flags = stack.pop(size), stack.pop(size) & 0xFFFF, stack.pop(size)
        set_flags(v, flags, size, changes=ALWAYS | IF)
        v.set_stack(stack.offset)
        real_mode_style(v, selector, eip)
        return DONE
    if v.get_eflags() & NT:
        tasks.switch_back(v, v.cpu.get_eip() + i.size)
        return DONE
    eip = stack.pop(size)
    selector = stack.pop(size) & 0xFFFF
    flags = stack.pop(size)
    if size == 4 and flags & VM and v.cpl == 0:
        return_to_virtual_8086(v, stack, selector, eip, flags)
        return DONE
    return_to(v, stack, selector, eip, size, flags, 0)
    return DONE


def set_flags(v: VirtualCpu, flags: int, size: int, changes: int) -> None:
    """Let a popped image of FLAGS change the bits ``changes`` of EFLAGS."""
    if size == 2:
        changes &= 0xFFFF
    v.set_eflags(v.get_eflags() & ~changes | flags & changes)


def return_to(
    v: VirtualCpu, stack: Stack, selector: int, eip: int, size: int, flags: int | None, release: int
) -> None:
    """The protected-mode part of RETF and IRET: to the same level or an outer one."""
    error = selector & 0xFFFC
    if error == 0:
        raise GuestFault(GENERAL_PROTECTION)
    descriptor = v.descriptor(selector)
    low, high = descriptor & MASK_32, descriptor >> 32
    rpl = selector & 3
    dpl = high >> 13 & 3
    is_code = high & D_SEGMENT and high & D_CODE
    if not is_code or rpl < v.cpl or (dpl > rpl if high & D_CONFORMING else dpl != rpl):
        raise GuestFault(GENERAL_PROTECTION, error)
    if not high & D_PRESENT:
        raise GuestFault(SEGMENT_NOT_PRESENT, error)
    changes = ALWAYS
    if v.cpl == 0:
        changes |= IOPL
    if v.cpl <= v.get_iopl():
        changes |= INTERRUPTS
    if rpl == v.cpl:
        enter(v, selector, descriptor, eip)
        v.set_stack(stack.offset)
    else:
        esp = stack.pop(size)
        ss = stack.pop(size) & 0xFFFF
        ss_descriptor = check_stack_segment(v, ss, rpl)
        check_offset(descriptor, eip)
        ss_high = v.touch_descriptor(ss, ss_descriptor >> 32)
        high = v.touch_descriptor(selector, high)
        v.cpl = rpl
        v.load_segment(SS, ss, ss_descriptor & MASK_32, ss_high)
        v.load_segment(CS, selector, low, high)
        mask = v.get_stack_mask()
        v.cpu.set_general(ESP, esp if mask != 0xFFFF else v.cpu.general(ESP) & ~mask | esp & mask)
        v.set_stack(v.cpu.general(ESP) + release)
        v.cpu.set_eip(eip)
        drop_inner_segments(v)
    if flags is not None:
        set_flags(v, flags, size, changes)


def drop_inner_segments(v: VirtualCpu) -> None:
    """Data segments of an inner level, and selectors that are null, become 0 on the way out (SDM 2, RET)."""
    for index in (ES, DS, FS, GS):
        high = v.segment_high(index)
        conforming = high & D_CODE and high & D_CONFORMING
        if not high & D_SEGMENT or (high >> 13 & 3 < v.cpl and not conforming):
            v.cpu.set_segment(index, 0, 0, 0, 0)


def return_to_virtual_8086(v: VirtualCpu, stack: Stack, selector: int, eip: int, flags: int) -> None:
    """IRET with VM set in the image, at CPL 0 (SDM 3B, 20.2.3)."""
    esp, ss, es, ds, fs, gs = (stack.pop(4) for _ in range(6))
    v.cpl = 3
    v.eflags = flags
    for index, word in ((ES, es), (CS, selector), (SS, ss), (DS, ds), (FS, fs), (GS, gs)):
        value = word & 0xFFFF
        v.cpu.set_segment(index, value, value << 4, 0xFFFF, 0xFB00 if index == CS else 0xF300)
    v.cpu.set_general(ESP, esp)
    v.cpu.set_eip(eip & 0xFFFF)
