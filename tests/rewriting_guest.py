"""Guests that do one thing over and over, at random: change their page tables (through every alias, their own
directory included), use what these map, flush or forget to.
"""

from __future__ import annotations

import random
import struct

from guests_kit import DESCRIPTORS, GDT, HANDLERS, IDT, gate

from hypervisor.boot.entry import Entry
from hypervisor.machine import VirtualMachine

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
