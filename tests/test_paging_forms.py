"""The forms of paging: equal where the guest flushes as it must; and the traced one exact for all.

Guests here do one thing over and over, at random: change their page tables (through every alias, their
own directory included), use what these map, flush or forget to.
"""

from __future__ import annotations

import random
import struct

import pytest
from guests_kit import DESCRIPTORS, GDT, HANDLERS, IDT, gate

from hypervisor.boot.entry import Entry
from hypervisor.machine import VirtualMachine
from hypervisor.paging.forms import FORMS, NESTED
from hypervisor.state.model import MachineConfig

MEMORY = 4 << 20
CODE, STACK = 0x20000, 0x1F000
DIRECTORIES = (0x4000, 0x5000)
LOW, FIRST, SECOND = 0x6000, 0x7000, 0x8000
"""Page tables: of the lowest 4 MiB, which map themselves, and two more."""
TABLES = (*DIRECTORIES, LOW, FIRST, SECOND)
PLAYGROUND = range(0x100000, 0x140000, 0x1000)
SKIP = bytes.fromhex("83c404 83042406 cf")
"""The page-fault handler: drop the error code, skip the six bytes of the instruction, IRET."""


def entry(dice: random.Random, tables: tuple[int, ...] = TABLES) -> int:
    """An entry for any table: absent, RAM of the playground, a table, no memory, with any rights and bits."""
    frame = dice.choice((*PLAYGROUND, *tables, 0xA0000, 0x7FF00000))
    return frame | dice.choice((0, 1, 3, 3, 3, 7, 0x23, 0x63, 0x67, 0x61))


class Program:
    """A random guest.

    ``flushes``: does it flush after each change? Then it does not map the tables that map its own code either, for
    between a wild store to these and the flush nobody knows what it would execute.
    """

    def __init__(self, seed: int, *, flushes: bool) -> None:
        self.dice = random.Random(seed)
        self.flushes = flushes
        self.mapped = (FIRST, SECOND) if flushes else TABLES
        self.code = bytearray()
        self.directory = DIRECTORIES[0]
        for _ in range(150):
            self.dice.choices(
                (self.use, self.change, self.switch, self.straddle, self.fill), (10, 5, 1, 1, 0.3)
            )[0]()
        self.code += b"\xf4"

    def address(self) -> int:
        """Somewhere in the playground, or in what the changeable tables map."""
        dice = self.dice
        if dice.random() < 0.3:
            return dice.choice(PLAYGROUND) + dice.randrange(0, 4092)
        region = dice.choice((1, 2) if self.flushes else (1, 2, 3))
        return (region << 22) + (dice.randrange(24) << 12) + dice.randrange(0, 4092)

    def use(self) -> None:
        opcode = self.dice.choice(("8b05", "8905", "ff05"))  # MOV EAX, m; MOV m, EAX; INC m
        self.code += bytes.fromhex(opcode) + struct.pack("<I", self.address())
        self.flush()  # what it maps may be a table

    def slot(self) -> int:
        """Where a table entry lies that this program may change: never those of its own code."""
        dice = self.dice
        table = dice.choice(TABLES)
        if table in DIRECTORIES:
            return table + 4 * dice.choice((1, 2, 3))
        if table == LOW:
            return table + 4 * dice.randrange(PLAYGROUND.start >> 12, PLAYGROUND.stop >> 12)
        return table + 4 * dice.randrange(24)

    def change(self) -> None:
        # MOV dword [slot], entry: ten bytes, but it never faults.
        self.code += b"\xc7\x05" + struct.pack("<II", self.slot(), entry(self.dice, self.mapped))
        self.flush()

    def straddle(self) -> None:
        """A store across the ends of two tables."""
        self.code += b"\x89\x05" + struct.pack(
            "<I", self.dice.choice((FIRST, SECOND, SECOND + 0x1000) if self.flushes else TABLES[1:]) - 2
        )
        self.flush()

    def fill(self) -> None:
        """REP STOSD over a whole table."""
        table = self.dice.choice((FIRST, SECOND))
        self.code += b"\xbf" + struct.pack("<I", table) + b"\xb9\x00\x04\x00\x00\xb8"
        self.code += struct.pack("<I", entry(self.dice, self.mapped)) + b"\xf3\xab"
        self.flush()

    def switch(self) -> None:
        self.directory = self.dice.choice(DIRECTORIES)
        self.load()

    def load(self) -> None:
        self.code += b"\xb8" + struct.pack("<I", self.directory) + b"\x0f\x22\xd8"

    def flush(self) -> None:
        if self.flushes:
            self.load()

    def place(self, vm: VirtualMachine) -> None:
        """Put it, and the tables that it begins with, into a machine whose memory is all zero."""
        ram = vm.ram
        dice = random.Random(self.code[0])
        ram[GDT : GDT + 8 * len(DESCRIPTORS)] = b"".join(DESCRIPTORS)
        ram[IDT : IDT + 8 * 15] = gate(8, HANDLERS, 14, 0) * 15
        ram[HANDLERS : HANDLERS + len(SKIP)] = SKIP
        ram[CODE : CODE + len(self.code)] = self.code
        words = ram.cast("I")
        for n in range(1024):
            words[LOW // 4 + n] = n << 12 | 3
            words[FIRST // 4 + n] = 0x100000 + (n % 64 << 12) | 3
            words[SECOND // 4 + n] = entry(dice, self.mapped)
        for directory in DIRECTORIES:
            words[directory // 4 : directory // 4 + 4] = memoryview(
                struct.pack("<4I", LOW | 3, FIRST | 3, SECOND | 3, directory | 3)
            ).cast("I")
        for n, frame in enumerate(PLAYGROUND):
            ram[frame : frame + 4096] = bytes([n + 1]) * 4096
        vm.paging.about_to_write(0, MEMORY)
        v = vm.vcpu
        vm.enter_kernel(Entry(CODE))
        v.gdt_base, v.gdt_limit = GDT, 8 * len(DESCRIPTORS) - 1
        v.idt_base, v.idt_limit = IDT, 8 * 15 - 1
        vm.cpu.set_general(4, STACK)
        v.set_control(0x80000011, self.directory, 0x10)


def technique_for(form: str) -> str:
    return "guest" if form == NESTED else "trap"


def run(program: Program, form: str, disturbance: int | None = None) -> tuple[str, str]:
    """How it ends: why, and the digest. ``disturbance`` seeds stops, and losses of all tables."""
    with VirtualMachine(MachineConfig(MEMORY, technique_for(form)), paging=form) as vm:
        program.place(vm)
        if disturbance is not None:
            dice = random.Random(disturbance)
            while vm.run(instructions=dice.randrange(1, 9)).reason == "limit":
                if dice.random() < 0.5:
                    vm.paging.drop()
                if vm.instructions > 20_000:
                    break
        stop = vm.run(until=20_000)
        return stop.reason, vm.digest()


@pytest.mark.parametrize("seed", range(40))
def test_a_guest_that_flushes_cannot_tell_the_forms_apart(seed):
    program = Program(seed, flushes=True)
    assert run(program, "traced") == run(program, "lazy") == run(program, "lazy", seed)
    assert run(program, "traced") == run(program, NESTED) == run(program, NESTED, seed)


@pytest.mark.parametrize("seed", range(40))
def test_a_guest_that_never_flushes_cannot_tell_whether_traced_shadows_were_lost(seed):
    program = Program(seed, flushes=False)
    assert run(program, "traced") == run(program, "traced", seed)


@pytest.mark.fuzz
def test_many_guests_that_rewrite_their_tables():
    for seed in range(1000, 4000):
        flushes = bool(seed & 1)
        program = Program(seed, flushes=flushes)
        calm = run(program, "traced")
        assert run(program, "traced", seed) == calm, seed
        assert not flushes or run(program, "lazy", seed) == calm, seed
        assert not flushes or run(program, NESTED, seed) == calm, seed


def test_there_may_be_more_address_spaces_than_shadows_are_kept():
    with VirtualMachine(MachineConfig(MEMORY), paging="traced") as vm:
        program = Program(0, flushes=False)
        program.code = bytearray()
        spaces = range(0x200000, 0x200000 + 300 * 0x1000, 0x1000)
        for directory in (*spaces, *spaces):
            program.directory = directory
            program.load()
            program.code += b"\xff\x05" + struct.pack("<I", 0x100000)
        program.code += b"\xf4"
        program.directory = spaces[0]
        program.place(vm)
        for directory in spaces:
            vm.ram[directory : directory + 4] = struct.pack("<I", LOW | 3)
        assert vm.run(until=20_000).reason == "halted"
        assert vm.ram[0x100000:0x100002] == bytes((1 + 600 & 255, 1 + (1 + 600 >> 8)))
        assert vm.paging.statistics()["tables"] < 600


@pytest.mark.parametrize("form", FORMS)
def test_the_dirty_log_has_every_frame_that_changed_and_few_others(form):
    with VirtualMachine.boot("tern", paging=form, append="quiet", technique=technique_for(form)) as vm:
        vm.console.send(b"cat /bin/selftest | wc; dirty 1 64 &\nps\n")
        vm.dirty.start()
        assert not any(vm.dirty.harvest())
        for _ in range(40):
            before = bytes(vm.ram)
            vm.run(instructions=random.Random(vm.instructions).randrange(1, 400_000))
            dirty = vm.dirty.harvest()
            now = bytes(vm.ram)
            changed = [
                now[n << 12 : (n + 1) << 12] != before[n << 12 : (n + 1) << 12] for n in range(len(dirty))
            ]
            missed = [n for n, differs in enumerate(changed) if differs and not dirty[n]]
            assert not missed
            assert sum(map(bool, dirty)) <= 3 * sum(changed) + 64
        assert not any(vm.dirty.harvest())
