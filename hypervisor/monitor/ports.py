"""Port input and output, with the permission checks that the emulated CPU leaves out.

IOPL and the TSS's permission bitmap: Intel SDM 1, 18.5. String instructions do one element a time and
stay at their own address while ECX is not 0, so that an interrupt may come between two elements. Where
nothing could come between, many are done at once: see ``burst``.
Before a device is accessed, ``v.now()`` brings virtual time up to date.
"""

from __future__ import annotations

from hypervisor.hardware.faults import GENERAL_PROTECTION, GuestFault
from hypervisor.hardware.x86 import DF, DS, EAX, ECX, EDI, EDX, ES, ESI, TF, VM
from hypervisor.monitor.decode import Instruction
from hypervisor.monitor.vcpu import VirtualCpu
from hypervisor.paging.physical import NOWHERE

BITMAP_BASE = 0x66
"""Offset in the TSS of the word that says where the permission bitmap begins."""
SIZES = {"b": 1, "w": 2, "d": 4}


def check_permission(v: VirtualCpu, port: int, size: int) -> None:
    """Raise #GP(0) unless the guest may access ``size`` ports from ``port`` on."""
    if v.cpl <= v.get_iopl() and not v.in_virtual_8086():
        return
    tss = v.tr
    if not tss.high or not tss.high >> 8 & 8 or tss.limit < BITMAP_BASE + 1:
        raise GuestFault(GENERAL_PROTECTION)
    offset = v.load(tss.base + BITMAP_BASE, 2) + (port >> 3)
    # The processor always reads two bytes, since a range may cross a byte.
    if offset + 1 > tss.limit:
        raise GuestFault(GENERAL_PROTECTION)
    if v.load(tss.base + offset, 2) >> (port & 7) & ((1 << size) - 1):
        raise GuestFault(GENERAL_PROTECTION)


def accumulator_size(i: Instruction) -> int:
    """1, 2 or 4: the opcode's lowest bit says whether more than a byte moves."""
    return i.operand_size if i.opcode & 1 else 1


def port_of(v: VirtualCpu, i: Instruction) -> int:
    return v.cpu.general(EDX) & 0xFFFF if i.opcode & 8 else i.raw[-1]


def input_port(v: VirtualCpu, i: Instruction) -> None:
    """IN AL/AX/EAX, DX or imm8."""
    port, size = port_of(v, i), accumulator_size(i)
    check_permission(v, port, size)
    v.now()
    value = v.bus.read_port(port, size)
    if size != 4:
        mask = (1 << 8 * size) - 1
        value = v.cpu.general(EAX) & ~mask | value & mask
    v.cpu.set_general(EAX, value)


def output_port(v: VirtualCpu, i: Instruction) -> None:
    """OUT DX or imm8, AL/AX/EAX."""
    port, size = port_of(v, i), accumulator_size(i)
    check_permission(v, port, size)
    v.now()
    value = v.cpu.general(EAX)
    if size != 4:
        value &= (1 << 8 * size) - 1
    v.bus.write_port(port, size, value)


def step_index(v: VirtualCpu, i: Instruction, register: int, size: int) -> None:
    """Move ESI or EDI (or SI, DI) by one element, by the direction flag."""
    mask = 0xFFFF if i.address_size == 2 else 0xFFFFFFFF
    old = v.cpu.general(register)
    new = old + (-size if v.eflags & DF else size)
    v.cpu.set_general(register, old & ~mask & 0xFFFFFFFF | new & mask)


def repeats(v: VirtualCpu, i: Instruction) -> bool:
    """Count one element of a REP instruction; True if it is not the last."""
    mask = 0xFFFF if i.address_size == 2 else 0xFFFFFFFF
    old = v.cpu.general(ECX)
    left = (old & mask) - 1
    v.cpu.set_general(ECX, old & ~mask & 0xFFFFFFFF | left & mask)
    return left != 0


def exhausted(v: VirtualCpu, i: Instruction) -> bool:
    mask = 0xFFFF if i.address_size == 2 else 0xFFFFFFFF
    return i.repeat and v.cpu.general(ECX) & mask == 0


def burst(v: VirtualCpu, i: Instruction, gva: int, size: int, left: int, *, to_guest: bool) -> int:
    """How many elements of a REP instruction can be done at once so that nobody can tell; 0 or 1: just one.

    Each element is an instruction of virtual time, and between two of them the loop would look for
    interrupts, deadlines and limits. So they may be done together if nothing that it could find comes up:

    * all of them fit before the fence (``v.fence``), which is the earliest count at which a deadline, an
      interrupt or the run's limit is due. A burst that is cut there leaves the same registers as that
      many single elements, and its rest begins like any other instruction;
    * the device's part of them is nothing but data: no line moves, no deadline changes. The device says
      how many such there are; the last element of a sector, which starts the next, never is one;
    * they stay within one page, which is resolved once (and gets its Accessed and Dirty bits with the
      first element anyway), and which is not the one that the instruction is in, for a single element
      would be fetched again after each store;
    * permission and trap flag cannot change meanwhile: no bitmap is in play, TF is clear.
    """
    if not i.repeat or i.address_size != 4 or v.eflags & (DF | TF | VM) or v.cpl > v.iopl:
        return 0
    room = min(v.fence - v.cpu.get_retired(), left, (4096 - (gva & 0xFFF)) // size)
    if room < 2:
        return 0
    frame = v.paging.host_address(gva, to_guest, v.user) >> 12
    if frame == NOWHERE >> 12:
        return 0
    first = v.cpu.linear_eip()
    for code in (first, first + i.size - 1):
        if v.paging.host_address(code & 0xFFFFFFFF, False, v.user) >> 12 == frame:
            return 0
    return min(room, v.bus.burst(v.cpu.general(EDX) & 0xFFFF, size, to_guest=to_guest))


def skip(v: VirtualCpu, register: int, size: int, count: int) -> bool | None:
    """So many elements are done, forwards: the last of them is counted by the caller, as always."""
    v.cpu.set_general(register, v.cpu.general(register) + count * size & 0xFFFFFFFF)
    left = v.cpu.general(ECX) - count
    v.cpu.set_general(ECX, left)
    v.cpu.set_retired(v.cpu.get_retired() + count - 1)
    return True if left else None


def input_string(v: VirtualCpu, i: Instruction) -> bool | None:
    """INS and REP INS: from port DX to ES:EDI. The store is checked before the port is read."""
    size = SIZES[i.name[-1]]
    port = v.cpu.general(EDX) & 0xFFFF
    check_permission(v, port, size)
    if exhausted(v, i):
        return None
    mask = 0xFFFF if i.address_size == 2 else 0xFFFFFFFF
    gva = v.linear(ES, v.cpu.general(EDI) & mask)
    v.paging.host_address(gva, True, v.user)
    if (gva & 0xFFF) + size > 4096:
        # A fault there is at the next page's first byte.
        v.paging.host_address((gva | 0xFFF) + 1 & 0xFFFFFFFF, True, v.user)
    v.now()
    count = burst(v, i, gva, size, v.cpu.general(ECX), to_guest=True)
    if count > 1:
        v.memory.write(v.paging.host_address(gva, True, v.user), v.bus.read_burst(port, count * size))
        v.paging.settle()
        return skip(v, EDI, size, count)
    v.store(gva, size, v.bus.read_port(port, size), v.user)
    step_index(v, i, EDI, size)
    return True if i.repeat and repeats(v, i) else None


def output_string(v: VirtualCpu, i: Instruction) -> bool | None:
    """OUTS and REP OUTS: from DS:ESI (or an overriding segment) to port DX."""
    size = SIZES[i.name[-1]]
    port = v.cpu.general(EDX) & 0xFFFF
    check_permission(v, port, size)
    if exhausted(v, i):
        return None
    mask = 0xFFFF if i.address_size == 2 else 0xFFFFFFFF
    segment = DS if i.segment_override is None else i.segment_override
    gva = v.linear(segment, v.cpu.general(ESI) & mask)
    value = v.load(gva, size, v.user)
    v.now()
    count = burst(v, i, gva, size, v.cpu.general(ECX), to_guest=False)
    if count > 1:
        v.bus.write_burst(port, v.memory.read(v.paging.host_address(gva, False, v.user), count * size))
        return skip(v, ESI, size, count)
    v.bus.write_port(port, size, value)
    step_index(v, i, ESI, size)
    return True if i.repeat and repeats(v, i) else None
