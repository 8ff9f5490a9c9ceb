"""Instructions that the emulated CPU gets wrong, and what is done about it.

Some lose the flags when their memory operand faults. QEMU keeps the arithmetic flags as the last operation and
its operands, and computes them when they are asked for. A page fault takes back which operation it was, as it
takes back EIP, but not the operands. SETcc, RCL and RCR ask before they access memory, and then the answer is
where one operand was. A guest would compute wrongly whenever a page happens not to be in its shadow. What is
done where they occur (see sites.py):

* SETcc is *noted*: the answer that lies there is known to be the flags, and is taken.
* RCL and RCR change the answer before they store their result, so they are *watched* and emulated.
* So is CMPXCHG8B. It asks without having said which operation the last one was, and leaves noise in all of
  EFLAGS, even in VM, fault or not.

With registers, where nothing can fault, they run by themselves. These are all: every instruction with a memory
operand was run with its page in the shadow and without (tests/test_hidden_faults.py).

FNSTENV and FNSAVE store the selector in CS at the last x87 instruction, and of a kernel that is the real one
with the ring that it really runs in. They are noted too; the CPU hides the ring then (``Cpu.hide_ring``). A
guest that computes in a ring 1 of its own is told 0 there.
"""

from __future__ import annotations

from hypervisor.hardware.faults import INVALID_OPCODE, GuestFault
from hypervisor.hardware.x86 import CF, EAX, EBX, ECX, EDX, OF, ZF
from hypervisor.monitor.decode import Handler, Instruction, operand_address
from hypervisor.monitor.vcpu import VirtualCpu

WATCHED = dict.fromkeys((0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3), 1 << 2 | 1 << 3)
"""RCL and RCR: opcodes, and which of their memory forms, as ``Cpu.announce_opcodes`` wants them."""
WATCHED_AFTER_0F = {0xC7: 1 << 1}
"""CMPXCHG8B."""
NOTED = dict.fromkeys((0xD9, 0xDD), 1 << 6)
"""FNSTENV and FNSAVE."""
NOTED_AFTER_0F = dict.fromkeys(range(0x90, 0xA0), 0xFF)
"""SETcc."""


def rotate_through_carry(v: VirtualCpu, i: Instruction) -> None:
    """RCL and RCR of memory. Where the manual leaves OF undefined, it is what the emulated CPU makes it."""
    if i.lock:
        raise GuestFault(INVALID_OPCODE)
    size = i.operand_size if i.opcode & 1 else 1
    bits = 8 * size
    by_register = v.cpu.general(ECX) if i.opcode & 2 else 1
    count = (by_register if i.opcode >= 0xD0 else i.raw[-1]) & 31
    count %= bits + 1
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


def compare_and_exchange(v: VirtualCpu, i: Instruction) -> None:
    """CMPXCHG8B m64. It always stores: what was there, if that is not what EDX:EAX expected."""
    cpu, user = v.cpu, v.is_user()
    gva = operand_address(v, i, i.operands[0])
    if gva & 0xFFF > 0x1000 - 8:
        whole = int.from_bytes(v.read(gva, 8, user), "little")
        low, high = whole & 0xFFFFFFFF, whole >> 32
    else:
        low, high = v.load(gva, 4, user), v.load(gva + 4, 4, user)
    equal = low == cpu.general(EAX) and high == cpu.general(EDX)
    new_low, new_high = (cpu.general(EBX), cpu.general(ECX)) if equal else (low, high)
    if gva & 0xFFF > 0x1000 - 8:
        # Both pages are looked at before the first of them is stored to.
        v.write(gva, (new_high << 32 | new_low).to_bytes(8, "little"), user)
    else:
        v.store(gva, 4, new_low, user)
        v.store(gva + 4, 4, new_high, user)
    if equal:
        v.set_eflags(v.get_eflags() | ZF)
    else:
        cpu.set_general(EAX, low)
        cpu.set_general(EDX, high)
        v.set_eflags(v.get_eflags() & ~ZF)


EMULATED: dict[str, Handler] = {
    "rcl": rotate_through_carry,
    "rcr": rotate_through_carry,
    "cmpxchg8b": compare_and_exchange,
}
