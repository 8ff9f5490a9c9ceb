"""Instructions that the emulated CPU gets wrong, and what is done instead.

QEMU keeps the arithmetic flags as the operands and the result of the last operation, and computes them when
they are asked for. RCL, RCR and SETcc ask before they access their memory operand, and the answer overwrites
one of those values; if the access then faults, the rest are taken back to what they were before the instruction,
and the flags become noise. CMPXCHG8B asks without saying first which operation the last one was, and leaves
noise in all of EFLAGS, even in VM. A guest would compute wrongly whenever a page happens not to be in its
shadow, or its user could change its mode. So these four are watched where they occur (see sites.py), like port
instructions, and emulated here; with registers, where nothing can fault, the first three run by themselves.

They were found by running every instruction with a memory operand with its page present in the shadow and
without, in a block and alone: tests/test_hidden_faults.py.
"""

from __future__ import annotations

from collections.abc import Callable

from hypervisor.hardware.faults import INVALID_OPCODE, GuestFault
from hypervisor.hardware.x86 import CF, EAX, EBX, ECX, EDX, OF, PF, SF, ZF
from hypervisor.monitor.decode import Handler, Instruction, operand_address
from hypervisor.monitor.vcpu import VirtualCpu

ONE_BYTE_FORMS = dict.fromkeys((0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3), 1 << 2 | 1 << 3)
"""Opcode -> which values of the ModRM byte's reg field are meant, as bits: RCL and RCR."""
TWO_BYTE_FORMS = {**dict.fromkeys(range(0x90, 0xA0), 0xFF), 0xC7: 1 << 1}
"""The same for the byte after 0F: SETcc and CMPXCHG8B."""


def no_lock(i: Instruction) -> None:
    if i.lock:
        raise GuestFault(INVALID_OPCODE)


def rotate_through_carry(v: VirtualCpu, i: Instruction) -> None:
    """RCL and RCR. OF, undefined unless the count is 1, is what it is there, as the emulated CPU does it."""
    no_lock(i)
    size = i.operand_size if i.opcode & 1 else 1
    by_register = v.cpu.general(ECX) if i.opcode & 2 else 1
    count = by_register if i.opcode >= 0xD0 else i.raw[-1]
    bits = 8 * size
    count = (count & 31) % (bits + 1)
    gva = operand_address(v, i, i.operands[0])
    old = v.load(gva, size, v.user)
    flags = v.eflags
    # The operand with the carry flag on top of it is what is rotated.
    whole = old | (flags & CF) << bits
    left = count if i.name == "rcl" else bits + 1 - count
    whole = (whole << left | whole >> bits + 1 - left) & (1 << bits + 1) - 1
    new = whole & (1 << bits) - 1
    v.store(gva, size, new, v.user)
    if count:
        overflow = OF if (old ^ new) >> bits - 1 else 0
        v.eflags = flags & ~(CF | OF) | whole >> bits | overflow


CONDITIONS: dict[str, Callable[[int], bool]] = {
    "o": lambda f: f & OF != 0,
    "b": lambda f: f & CF != 0,
    "e": lambda f: f & ZF != 0,
    "be": lambda f: f & (CF | ZF) != 0,
    "s": lambda f: f & SF != 0,
    "p": lambda f: f & PF != 0,
    "l": lambda f: (f & SF != 0) != (f & OF != 0),
    "le": lambda f: f & ZF != 0 or (f & SF != 0) != (f & OF != 0),
}
OPPOSITES = {"no": "o", "ae": "b", "ne": "e", "a": "be", "ns": "s", "np": "p", "ge": "l", "g": "le"}


def holds(condition: str, flags: int) -> bool:
    """Does a condition, as SETcc and Jcc name it, hold for these EFLAGS (Intel SDM 1, appendix B)?"""
    opposite = OPPOSITES.get(condition)
    return not holds(opposite, flags) if opposite else CONDITIONS[condition](flags)


def set_on_condition(v: VirtualCpu, i: Instruction) -> None:
    """SETcc."""
    no_lock(i)
    v.store(operand_address(v, i, i.operands[0]), 1, int(holds(i.name[3:], v.eflags)), v.user)


def compare_and_exchange(v: VirtualCpu, i: Instruction) -> None:
    """CMPXCHG8B. It always stores: what was there if that is not what EDX:EAX expected."""
    gva = operand_address(v, i, i.operands[0])
    old = int.from_bytes(v.read(gva, 8, v.user), "little")
    equal = old == v.cpu.general(EDX) << 32 | v.cpu.general(EAX)
    new = v.cpu.general(ECX) << 32 | v.cpu.general(EBX) if equal else old
    v.write(gva, new.to_bytes(8, "little"), v.user)
    if equal:
        v.eflags |= ZF
    else:
        v.cpu.set_general(EAX, old & 0xFFFFFFFF)
        v.cpu.set_general(EDX, old >> 32)
        v.eflags &= ~ZF


UNRESTARTABLE: dict[str, Handler] = {
    "rcl": rotate_through_carry,
    "rcr": rotate_through_carry,
    "cmpxchg8b": compare_and_exchange,
    **{f"set{condition}": set_on_condition for condition in (*CONDITIONS, *OPPOSITES)},
}
