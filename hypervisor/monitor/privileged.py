"""Emulation of the privileged instructions, each on the virtual registers (Intel SDM 2).

A handler gets the virtual CPU and the decoded instruction. It returns nothing (the caller moves EIP
on), or True if it has set EIP itself; it raises GuestFault where the guest's processor would fault.
``EMULATED`` at the end is the whole table. To change what an instruction does, edit or replace a handler.
"""

from __future__ import annotations

from hypervisor.hardware.faults import (
    BREAKPOINT,
    DEBUG,
    GENERAL_PROTECTION,
    INVALID_OPCODE,
    OVERFLOW,
    GuestFault,
    GuestStopped,
)
from hypervisor.hardware.x86 import (
    CR0_BITS,
    CR0_CD,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    EAX,
    EBX,
    ECX,
    EDX,
    IF,
    IOPL,
    OF,
    VM,
)
from hypervisor.monitor import events, ports, segments, sensitive, transfer
from hypervisor.monitor.cpuid import cpuid
from hypervisor.monitor.decode import (
    CONTROL_REGISTER,
    DEBUG_REGISTER,
    GENERAL_REGISTER,
    MEMORY,
    SEGMENT_REGISTER,
    Handler,
    Instruction,
    Operand,
    load_operand,
    operand_address,
)
from hypervisor.monitor.stack import Stack
from hypervisor.monitor.vcpu import VirtualCpu

CR4_TSD = 1 << 2
CR4_BITS = 0x61C
"""CR4 bits that the processor has: TSD, DE, PSE, OSFXSR, OSXMMEXCPT."""
CR4_RELOADS_PAGING = 1 << 4

MSR_TSC = 0x10
MSR_APIC_BASE = 0x1B
KNOWN_MSRS = frozenset((MSR_APIC_BASE, 0x174, 0x175, 0x176, 0x277, 0xC0000080))


def require_kernel(v: VirtualCpu) -> None:
    if v.cpl:
        raise GuestFault(GENERAL_PROTECTION)


# -------------------------------------------------------------------- interrupt flag


def cli(v: VirtualCpu, i: Instruction) -> None:
    if not v.may_change_interrupts():
        raise GuestFault(GENERAL_PROTECTION)
    v.set_interrupts(False)


def sti(v: VirtualCpu, i: Instruction) -> None:
    if not v.may_change_interrupts():
        raise GuestFault(GENERAL_PROTECTION)
    # Also if IF was set: the emulated CPU's own STI makes no difference, and all techniques must agree.
    v.set_interrupts(True)
    v.holding = not v.shadowed()


def hlt(v: VirtualCpu, i: Instruction) -> None:
    require_kernel(v)
    v.halted = True


def push_flags(v: VirtualCpu, i: Instruction) -> None:
    """PUSHF traps in virtual-8086 mode with IOPL < 3, where it is the guest kernel's to emulate."""
    if v.virtual_8086 and v.iopl != 3:
        raise GuestFault(GENERAL_PROTECTION)
    stack = Stack.current(v)
    stack.push(i.operand_size, v.eflags & ~(VM | 1 << 16))
    v.set_stack(stack.offset)


def pop_flags(v: VirtualCpu, i: Instruction) -> None:
    """POPF, likewise; and wherever the real one would not do what the guest's privilege allows."""
    if v.virtual_8086 and v.iopl != 3:
        raise GuestFault(GENERAL_PROTECTION)
    stack = Stack.current(v)
    flags = stack.pop(i.operand_size)
    changes = transfer.ARITHMETIC | 0x100 | 0x400 | 0x4000 | 0x40000 | 0x200000
    if v.cpl == 0:
        changes |= IOPL
    if v.cpl <= v.iopl:
        changes |= IF
    v.set_stack(stack.offset)
    transfer.set_flags(v, flags, i.operand_size, changes)


# -------------------------------------------------------------------- control and debug registers


def mov(v: VirtualCpu, i: Instruction) -> None:
    """MOV traps when a control, debug or segment register is concerned."""
    target: Operand = i.operands[0]
    source: Operand = i.operands[1]
    if target.kind == SEGMENT_REGISTER and (source.kind == GENERAL_REGISTER or source.kind == MEMORY):
        segments.mov_to_segment(v, i)
    elif target.kind == CONTROL_REGISTER:
        write_control(v, target.number, v.cpu.general(source.number))
    elif target.kind == DEBUG_REGISTER:
        write_debug(v, target.number, v.cpu.general(source.number))
    elif source.kind == CONTROL_REGISTER:
        v.cpu.set_general(target.number, read_control(v, source.number))
    elif source.kind == DEBUG_REGISTER:
        v.cpu.set_general(target.number, read_debug(v, source.number))
    elif source.kind == SEGMENT_REGISTER:
        sensitive.mov_from_segment(v, i)
    else:
        raise GuestFault(GENERAL_PROTECTION)


def read_control(v: VirtualCpu, number: int) -> int:
    require_kernel(v)
    if number == 0:
        return v.cr0
    if number == 2:
        return v.cr2
    if number == 3:
        return v.cr3
    if number == 4:
        return v.cr4
    raise GuestFault(INVALID_OPCODE)


def write_control(v: VirtualCpu, number: int, value: int) -> None:
    require_kernel(v)
    if number == 0:
        write_cr0(v, value)
    elif number == 2:
        v.cr2 = value
    elif number == 3:
        v.set_control(v.cr0, value, v.cr4)
    elif number == 4:
        if value & ~CR4_BITS:
            raise GuestFault(GENERAL_PROTECTION)
        if (value ^ v.cr4) & CR4_RELOADS_PAGING:
            v.set_control(v.cr0, v.cr3, value)
        v.cr4 = value
        v.cpu.set_fpu_control(v.cr0, value)
    else:
        raise GuestFault(INVALID_OPCODE)


def write_cr0(v: VirtualCpu, value: int) -> None:
    if (value & CR0_PG and not value & CR0_PE) or (value & CR0_NW and not value & CR0_CD):
        raise GuestFault(GENERAL_PROTECTION)
    if not value & CR0_PE:
        raise GuestStopped("it wants to go to real mode (CR0.PE := 0), which is not supported")
    if (value ^ v.cr0) & 0x80010001:
        v.set_control(value, v.cr3, v.cr4)
    else:
        v.cr0 = value & CR0_BITS | 0x10
        v.cpu.set_fpu_control(v.cr0, v.cr4)


def clts(v: VirtualCpu, i: Instruction) -> None:
    require_kernel(v)
    v.cr0 &= ~CR0_TS
    v.cpu.set_fpu_control(v.cr0, v.cr4)


def lmsw(v: VirtualCpu, i: Instruction) -> None:
    """LMSW sets PE, MP, EM and TS; it cannot clear PE."""
    require_kernel(v)
    value = load_operand(v, i, i.operands[0], 2)
    write_cr0(v, v.cr0 & ~0xE | value & 0xF | v.cr0 & CR0_PE)


def read_debug(v: VirtualCpu, number: int) -> int:
    require_kernel(v)
    return v.debug[debug_number(v, number)]


def write_debug(v: VirtualCpu, number: int, value: int) -> None:
    """Debug registers hold what is written; breakpoints in them do not fire (as on QEMU's gdb-less TCG)."""
    require_kernel(v)
    number = debug_number(v, number)
    if number == 6:
        value = value & ~0x1000 | 0xFFFF0FF0
    elif number == 7:
        value = value & ~0xD800 | 0x400
    v.debug[number] = value


def debug_number(v: VirtualCpu, number: int) -> int:
    """DR4 and DR5 are other names of DR6 and DR7 unless CR4.DE forbids them."""
    if number in (4, 5):
        if v.cr4 & 8:
            raise GuestFault(INVALID_OPCODE)
        return number + 2
    return number


# -------------------------------------------------------------------- tables, TLB, caches


def load_table(v: VirtualCpu, i: Instruction) -> tuple[int, int]:
    require_kernel(v)
    at = operand_address(v, i, i.operands[0])
    limit = v.load(at, 2)
    base = v.load(at + 2, 4)
    return limit, base if i.operand_size == 4 else base & 0xFFFFFF


def lgdt(v: VirtualCpu, i: Instruction) -> None:
    v.gdt_limit, v.gdt_base = load_table(v, i)


def lidt(v: VirtualCpu, i: Instruction) -> None:
    v.idt_limit, v.idt_base = load_table(v, i)


def lldt(v: VirtualCpu, i: Instruction) -> None:
    require_kernel(v)
    segments.load_local_table(v, load_operand(v, i, i.operands[0], 2))


def ltr(v: VirtualCpu, i: Instruction) -> None:
    require_kernel(v)
    segments.load_task_register(v, load_operand(v, i, i.operands[0], 2))


def invlpg(v: VirtualCpu, i: Instruction) -> None:
    require_kernel(v)
    v.paging.invalidate(operand_address(v, i, i.operands[0]))


def flush_caches(v: VirtualCpu, i: Instruction) -> None:
    """INVD and WBINVD: there are no caches to speak of."""
    require_kernel(v)


# -------------------------------------------------------------------- MSRs, time, identification


def time_stamp(v: VirtualCpu) -> int:
    """The time-stamp counter counts nanoseconds of virtual time."""
    now = v.now()
    return now + v.msrs[MSR_TSC] & 0xFFFFFFFFFFFFFFFF if v.msrs and MSR_TSC in v.msrs else now


def rdtsc(v: VirtualCpu, i: Instruction) -> None:
    if v.cr4 & CR4_TSD and v.cpl:
        raise GuestFault(GENERAL_PROTECTION)
    value = time_stamp(v)
    v.cpu.set_general(EAX, value & 0xFFFFFFFF)
    v.cpu.set_general(EDX, value >> 32)


def rdpmc(v: VirtualCpu, i: Instruction) -> None:
    """No performance counters."""
    raise GuestFault(GENERAL_PROTECTION)


def rdmsr(v: VirtualCpu, i: Instruction) -> None:
    require_kernel(v)
    number = v.cpu.general(ECX)
    if number == MSR_TSC:
        value = time_stamp(v)
    elif number in KNOWN_MSRS:
        value = v.msrs.get(number, 0)
    else:
        raise GuestFault(GENERAL_PROTECTION)
    v.cpu.set_general(EAX, value & 0xFFFFFFFF)
    v.cpu.set_general(EDX, value >> 32)


def wrmsr(v: VirtualCpu, i: Instruction) -> None:
    require_kernel(v)
    number = v.cpu.general(ECX)
    value = v.cpu.general(EDX) << 32 | v.cpu.general(EAX)
    if number == MSR_TSC:
        # Kept as the difference to virtual time, so that it goes on counting.
        v.msrs[MSR_TSC] = value - v.now() & 0xFFFFFFFFFFFFFFFF
    elif number in KNOWN_MSRS:
        if number == 0xC0000080 and value:
            raise GuestFault(GENERAL_PROTECTION)
        v.msrs[number] = value
    else:
        raise GuestFault(GENERAL_PROTECTION)


def identify(v: VirtualCpu, i: Instruction) -> None:
    """CPUID, from any ring."""
    eax, ebx, ecx, edx = cpuid(v.cpu.general(EAX))
    for register, value in ((EAX, eax), (EBX, ebx), (ECX, ecx), (EDX, edx)):
        v.cpu.set_general(register, value)


# -------------------------------------------------------------------- software interrupts


def software_interrupt(v: VirtualCpu, i: Instruction) -> bool | None:
    """INT n, INT3, INTO and INT1."""
    following = v.cpu.get_eip() + i.size & 0xFFFFFFFF
    if i.name == "int1":
        v.cpu.set_eip(following)
        events.raise_fault(v, GuestFault(DEBUG))
        return True
    if i.name == "into":
        if not v.eflags & OF:
            return None
        vector = OVERFLOW
    elif i.name == "int3":
        vector = BREAKPOINT
    else:
        vector = i.operands[0].value & 0xFF
        if v.in_virtual_8086() and v.get_iopl() != 3:
            raise GuestFault(GENERAL_PROTECTION)
    events.deliver(v, vector, None, software=True, following=following)
    return True


def undefined(v: VirtualCpu, i: Instruction) -> None:
    """SYSENTER, SYSCALL and their returns, RSM, SVM's own: this processor has none of them."""
    raise GuestFault(INVALID_OPCODE)


def pop(v: VirtualCpu, i: Instruction) -> None:
    """POP traps when it loads a segment register."""
    target: Operand = i.operands[0]
    if target.kind != SEGMENT_REGISTER:
        raise GuestFault(GENERAL_PROTECTION)
    segments.pop_segment(v, i)


def push(v: VirtualCpu, i: Instruction) -> None:
    """PUSH CS and PUSH SS, where a technique makes them exit."""
    target: Operand = i.operands[0]
    if target.kind != SEGMENT_REGISTER:
        raise GuestFault(GENERAL_PROTECTION)
    sensitive.push_segment(v, i)


EMULATED: dict[str, Handler] = {
    "cli": cli,
    "sti": sti,
    "hlt": hlt,
    "pushf": push_flags,
    "pushfd": push_flags,
    "popf": pop_flags,
    "popfd": pop_flags,
    "mov": mov,
    "pop": pop,
    "lds": segments.load_far_pointer,
    "les": segments.load_far_pointer,
    "lfs": segments.load_far_pointer,
    "lgs": segments.load_far_pointer,
    "lss": segments.load_far_pointer,
    "clts": clts,
    "lmsw": lmsw,
    "smsw": sensitive.smsw,
    "sgdt": sensitive.sgdt,
    "sidt": sensitive.sidt,
    "sldt": sensitive.sldt,
    "str": sensitive.store_task_register,
    "lar": sensitive.lar,
    "lsl": sensitive.lsl,
    "verr": sensitive.verr,
    "verw": sensitive.verw,
    "push": push,
    "lgdt": lgdt,
    "lidt": lidt,
    "lldt": lldt,
    "ltr": ltr,
    "invlpg": invlpg,
    "invd": flush_caches,
    "wbinvd": flush_caches,
    "rdtsc": rdtsc,
    "rdpmc": rdpmc,
    "rdmsr": rdmsr,
    "wrmsr": wrmsr,
    "cpuid": identify,
    "int": software_interrupt,
    "int1": software_interrupt,
    "int3": software_interrupt,
    "into": software_interrupt,
    "ljmp": transfer.far_jump,
    "lcall": transfer.far_call,
    "retf": transfer.far_return,
    "iret": transfer.interrupt_return,
    "iretd": transfer.interrupt_return,
    "in": ports.input_port,
    "out": ports.output_port,
    "insb": ports.input_string,
    "insw": ports.input_string,
    "insd": ports.input_string,
    "outsb": ports.output_string,
    "outsw": ports.output_string,
    "outsd": ports.output_string,
    **dict.fromkeys(
        (
            "sysenter",
            "sysexit",
            "sysexitl",
            "syscall",
            "sysret",
            "sysretl",
            "rsm",
            "rdtscp",
            "monitor",
            "mwait",
        )
        + ("vmrun", "vmmcall", "vmload", "vmsave", "stgi", "clgi", "skinit", "invlpga", "xsetbv", "xgetbv"),
        undefined,
    ),
}
