"""Instructions that the emulated CPU does not let trap: found when a block is translated, then watched.

The CPU announces a new block that holds a suspicious byte before the block runs for the first time. Here
it is disassembled; if it really holds an instruction of the technique's list, or one that cannot be left to
the CPU under any technique (unrestartable.py), an exit is put before it.

Capstone does not know every instruction that QEMU executes. After one that it does not know, nobody can say
where the next begins, and an exit is put before everything that might be a watched one; where no instruction
begins, it is never taken.
"""

from __future__ import annotations

import capstone

from hypervisor.hardware.x86 import CS, D_BIG
from hypervisor.monitor.decode import Instruction, is_memory
from hypervisor.monitor.unrestartable import ONE_BYTE_FORMS, TWO_BYTE_FORMS, UNRESTARTABLE
from hypervisor.monitor.vcpu import VirtualCpu
from hypervisor.techniques.base import Technique

MOST = 4096
"""So many addresses are watched at most: every new block is compared with all of them."""
FRAME = 0x000FFFFFFFFFF000
PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3))


class Sites:
    """The watched instructions of one machine."""

    def __init__(self, v: VirtualCpu, technique: type[Technique]) -> None:
        self.v = v
        self.names = technique.site_names
        self.one_byte = technique.one_byte_sites
        self.two_byte = technique.two_byte_sites
        self.decoders = {
            True: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32),
            False: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_16),
        }
        self.offsets: dict[tuple[bool, bytes], tuple[int, ...]] = {}
        """Code -> where in it watched instructions are; the same code is loaded again and again."""
        self.frames: dict[int, set[int]] = {}
        """Watched linear address -> host-physical frames whose code is watched there."""
        v.cpu.watch_opcodes(self.one_byte, self.two_byte, ONE_BYTE_FORMS, TWO_BYTE_FORMS)

    def scan(self, pc: int, size: int) -> None:
        """A new block at a linear address; it has not run yet."""
        v = self.v
        code = b"".join(
            v.memory.fetch(v.paging.root, pc + at & 0xFFFFFFFF).to_bytes(8, "little")
            for at in range(0, size, 8)
        )[:size]
        big = v.cpu.segment_flags(CS) & D_BIG != 0
        found = self.offsets.get((big, code))
        if found is None:
            found = self.find(big, code)
            if len(self.offsets) > 50_000:
                self.offsets.clear()
            self.offsets[big, code] = found
        fresh = False
        if len(self.frames) > MOST:
            self.drop_all()
        for offset in found:
            address = pc + offset & 0xFFFFFFFF
            if address not in self.frames:
                v.cpu.add_site(address)
                self.frames[address] = set()
                fresh = True
            self.frames[address].add(v.memory.shadow_entry(v.paging.root, address) & FRAME)
        if fresh:
            v.cpu.forget(pc, size)

    def find(self, big: bool, code: bytes) -> tuple[int, ...]:
        """Offsets of the instructions to be watched, and of what may be one."""
        found = []
        end = 0
        for offset, size, mnemonic, operands in self.decoders[big].disasm_lite(code, 0):
            name = mnemonic.split()[-1]
            if name in self.names or (name in UNRESTARTABLE and "[" in operands):
                found.append(offset)
            end = offset + size
        first = end
        for at in range(end, len(code)):
            if self.suspicious(code[at : at + 3]):
                found.extend(range(first, at + 1))
            if code[at] not in PREFIXES:
                first = at + 1
        return tuple(found)

    def suspicious(self, code: bytes) -> bool:
        """Do these bytes look like the opcode of a watched instruction?"""
        opcode, second, third = code.ljust(3, b"\xff")
        if opcode == 0x0F:
            return second in self.two_byte or (
                third < 0xC0 and TWO_BYTE_FORMS.get(second, 0) >> (third >> 3 & 7) & 1 != 0
            )
        return opcode in self.one_byte or (
            second < 0xC0 and ONE_BYTE_FORMS.get(opcode, 0) >> (second >> 3 & 7) & 1 != 0
        )

    def watched(self, instruction: Instruction) -> bool:
        """Is this instruction, at a watched address, one to be carried out by the monitor?"""
        return instruction.name in self.names or (
            instruction.name in UNRESTARTABLE and is_memory(instruction.operands[0])
        )

    def suspected(self, address: int) -> bool:
        """Does what is at a watched address, which Capstone does not know, have a watched opcode all the same?"""
        v = self.v
        code = b"".join(
            v.memory.fetch(v.paging.root, address + at & 0xFFFFFFFF).to_bytes(8, "little") for at in (0, 8)
        )
        return self.suspicious(code.lstrip(bytes(PREFIXES))[:3])

    def drop(self, address: int) -> None:
        """Another program has other code at this address, and that must not run watched.

        Before the callback QEMU brings EFLAGS up to date in a way that is wrong if the instruction then
        faults. The code that is watched there is forgotten, so that it will be announced again.
        """
        self.v.cpu.remove_site(address)
        self.v.cpu.forget(address, 1)
        for frame in self.frames.pop(address):
            self.v.cpu.forget_frame(frame)

    def drop_all(self) -> None:
        for address in self.frames:
            self.v.cpu.remove_site(address)
        self.frames.clear()
        self.v.cpu.forget_all()
