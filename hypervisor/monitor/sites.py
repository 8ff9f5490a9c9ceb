"""Instructions that the emulated CPU does not let trap: found when a block is translated, then watched.

The CPU announces a new block that holds a suspicious byte before the block runs for the first time. Here
it is disassembled; if it really holds an instruction of the technique's list, an exit is put before it.
"""

from __future__ import annotations

import capstone

from hypervisor.hardware.x86 import CS, D_BIG
from hypervisor.monitor.vcpu import VirtualCpu
from hypervisor.techniques.base import Technique


class Sites:
    """The watched instructions of one machine."""

    def __init__(self, v: VirtualCpu, technique: type[Technique]) -> None:
        self.v = v
        self.names = technique.site_names
        self.decoders = {
            True: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32),
            False: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_16),
        }
        self.offsets: dict[tuple[bool, bytes], tuple[int, ...]] = {}
        """Code -> where in it watched instructions are; the same code is loaded again and again."""
        v.cpu.watch_opcodes(technique.one_byte_sites, technique.two_byte_sites)

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
        fresh = [pc + offset & 0xFFFFFFFF for offset in found if pc + offset & 0xFFFFFFFF not in v.cpu.sites]
        for address in fresh:
            v.cpu.add_site(address)
        if fresh:
            v.cpu.forget(pc, size)

    def find(self, big: bool, code: bytes) -> tuple[int, ...]:
        return tuple(
            offset
            for offset, _, name, _ in self.decoders[big].disasm_lite(code, 0)
            if name.split()[-1] in self.names
        )

    def drop(self, address: int) -> None:
        """Another program has other code at this address: no need to exit there."""
        self.v.cpu.remove_site(address)
