"""Instructions that the emulated CPU does not let trap, or gets wrong: found when a block is translated.

The CPU announces a new block that seems to hold one before the block runs for the first time. Here it is
looked at, instruction by instruction as QEMU decodes it, and what it holds is *watched*: the CPU exits before
it; or *noted*: it runs by itself, but what it would get wrong is put right before (see unrestartable.py).

The same linear address is other code in another address space. So what is watched is an instruction at its
host-physical address, and none has to be given up because another program runs there for a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hypervisor.ext.cpu import ANY, MOST_SITES
from hypervisor.hardware.x86 import CS, D_BIG
from hypervisor.monitor import unrestartable
from hypervisor.monitor.decode import LONGEST, PREFIXES, Instruction
from hypervisor.monitor.vcpu import VirtualCpu
from hypervisor.techniques.base import ANY_FORM, REGISTER_FORMS, Technique

REMEMBERED = 50_000
"""Of so many blocks it is remembered what they hold: the same code is loaded again and again."""


class Opcodes:
    """A set of opcodes: first bytes, and bytes after 0F, with their forms (see techniques/base.py)."""

    def __init__(self, one_byte: Mapping[int, int], two_byte: Mapping[int, int]) -> None:
        self.one_byte = one_byte
        self.two_byte = two_byte

    def begin(self, code: bytes) -> bool:
        """Does an instruction that begins ``code`` have one of them?"""
        code = code[:LONGEST].lstrip(PREFIXES)
        forms = self.one_byte
        if code[:1] == b"\x0f":
            forms, code = self.two_byte, code[1:]
        if not code:
            return False
        wanted = forms.get(code[0], 0)
        if wanted & ANY_FORM:
            return True
        if len(code) == 1:
            return False
        kind = REGISTER_FORMS if code[1] >= 0xC0 else 0
        return wanted >> (code[1] >> 3 & 7) + kind & 1 != 0

    @staticmethod
    def announced(*sets: Mapping[int, int]) -> dict[int, int]:
        """What to announce for these forms: the CPU tells memory forms apart only."""
        announced: dict[int, int] = {}
        for opcodes in sets:
            for opcode, forms in opcodes.items():
                announced[opcode] = announced.get(opcode, 0) | (
                    ANY if forms >= 1 << REGISTER_FORMS else forms
                )
        return announced


class Hole(NamedTuple):
    """The instruction that ended the time of a technique."""

    gva: int
    instructions: int
    """Retired before the block that holds it ran for the first time."""
    code: bytes


class Sites:
    """The watched and noted instructions of one machine."""

    def __init__(self, v: VirtualCpu, technique: type[Technique]) -> None:
        self.v = v
        self.hole: Hole | None = None
        """Why it is not the technique any more that it was in the beginning, if so."""
        self.noted = Opcodes(unrestartable.NOTED, unrestartable.NOTED_AFTER_0F)
        self.known: dict[tuple[bool, bytes], tuple[tuple[int, bool], ...]] = {}
        """Code, and whether it is 32-bit code -> where in it such instructions begin, and whether they are watched."""
        self._use(technique)

    def _use(self, technique: type[Technique]) -> None:
        """Watch for what this technique wants, and look for what only its successor does."""
        self.technique = technique
        self.names = technique.site_names | unrestartable.EMULATED.keys()
        """Names of the watched instructions."""
        self.verdicts: dict[bytes, bool] = {}
        """Instructions at watched addresses: are they still to be watched?"""
        self.watched = Opcodes(
            {**technique.one_byte_sites, **unrestartable.WATCHED},
            {**technique.two_byte_sites, **unrestartable.WATCHED_AFTER_0F},
        )
        later = technique.successor
        self.holes = Opcodes({}, {}) if later is None else Opcodes(later.one_byte_sites, later.two_byte_sites)
        self.v.cpu.announce_opcodes(
            Opcodes.announced(self.watched.one_byte, self.holes.one_byte, self.noted.one_byte),
            Opcodes.announced(self.watched.two_byte, self.holes.two_byte, self.noted.two_byte),
        )

    def code_at(self, gva: int, size: int) -> bytes:
        v = self.v
        return b"".join(
            v.memory.fetch(v.paging.root, gva + at & 0xFFFFFFFF).to_bytes(8, "little")
            for at in range(0, size, 8)
        )[:size]

    def scan(self, pc: int, size: int) -> None:
        """A new block at a linear address; it has not run yet."""
        cpu = self.v.cpu
        code = self.code_at(pc, size)
        big = cpu.segment_flags(CS) & D_BIG != 0
        found = self.known.get((big, code))
        if found is None:
            found = self.find(pc, code, cpu.instructions(pc, size))
            if len(self.known) >= REMEMBERED:
                self.known.clear()
            self.known[big, code] = found
        if found and cpu.sites >= MOST_SITES:
            cpu.forget_sites()
        hooked = False
        for offset, watched in found:
            address = pc + offset & 0xFFFFFFFF
            hooked |= cpu.watch(address) if watched else cpu.note(address)
        if hooked:
            cpu.forget(pc, size)

    def find(self, pc: int, code: bytes, starts: list[int]) -> tuple[tuple[int, bool], ...]:
        found = []
        for offset in starts:
            instruction = code[offset : offset + LONGEST]
            watched = self.watched.begin(instruction)
            if not watched and self.holes.begin(instruction):
                self.hole = Hole(pc + offset & 0xFFFFFFFF, self.v.cpu.get_retired(), instruction)
                assert self.technique.successor is not None
                self._use(self.technique.successor)
                watched = True
            if watched or self.noted.begin(instruction):
                found.append((offset, watched))
        return tuple(found)

    def watches(self, instruction: Instruction) -> bool:
        """Is this one to be watched? Where one is, a store may have put another form of it: MOV from CS, and then any MOV."""
        verdict = self.verdicts.get(instruction.raw)
        if verdict is None:
            verdict = instruction.name in self.names and self.watched.begin(instruction.raw)
            if len(self.verdicts) >= REMEMBERED:
                self.verdicts.clear()
            self.verdicts[instruction.raw] = verdict
        return verdict

    def confirm(self) -> bool:
        """Is the instruction at CS:EIP, where one is watched, still one to watch? If not, it is no more."""
        cpu = self.v.cpu
        gva = cpu.linear_eip()
        if self.watched.begin(self.code_at(gva, LONGEST)):
            return True
        cpu.unwatch(gva)
        # What else was translated there may be watched under another address; it will be announced again.
        cpu.forget(gva, 1)
        return False
