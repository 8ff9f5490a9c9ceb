"""The ground that cases are run on (see case_maker.py), and what a case is: the same numbers as in guests/batch/batch.h."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from guests_kit import descriptor, gate

LANDING, SECOND_LANDING, AFTER_GATE, AFTER_GATE_WITH_ERROR = 0x7000, 0x10000, 0x7400, 0x7800
CODE, ARENA, ARENA_SIZE = 0x8000, 0xA000, 0x4000
STUBS, GDT, IDT, TSSS, LOW_TABLE = 0x401000, 0x5F0000, 0x5F1000, 0x5F2000, 0x5F5000
DIRECTORY = 0x5F4000
DOUBLE_FAULT_TASK = STUBS + 80 * 16
LDT = GDT + 0x180
SLOTS = ARENA + 0x100
"""Sixteen far pointers and the like, for memory operands."""
POINTERS = ARENA + 0x80
"""Images for LGDT and LIDT, in the page that is always there."""
SLOT_COUNT = 16
VECTORS = 80
CODE_SIZE = 128
LONGEST_CODE = 72
MOST_POKES = 32

CF, TF, IF, DF, IOPL, NT, VM, AC = 1, 0x100, 0x200, 0x400, 0x3000, 0x4000, 0x20000, 0x40000
PE, MP, EM, TS, ET, NE, WP, AM, PG = 1, 2, 4, 8, 0x10, 0x20, 1 << 16, 1 << 18, 1 << 31
TSD, DE, PSE, OSFXSR, OSXMMEXCPT = 4, 8, 16, 1 << 9, 1 << 10

FLAT = 0xFFFFF
DESCRIPTORS = [
    bytes(8),
    descriptor(0, FLAT, 0x9B, 0xC),  # 08 code, ring 0
    descriptor(0, FLAT, 0x93, 0xC),  # 10 data, ring 0
    descriptor(0, FLAT, 0xFB, 0xC),  # 18 code, ring 3
    descriptor(0, FLAT, 0xF3, 0xC),  # 20 data, ring 3
    descriptor(TSSS, 0xFF, 0x89, 0),  # 28 TSS
    descriptor(TSSS + 0x100, 0xFF, 0x89, 0),  # 30 TSS
    descriptor(TSSS + 0x200, 0x67, 0x8B, 0),  # 38 busy TSS
    descriptor(TSSS + 0x300, 0x67, 0x89, 0),  # 40 TSS for double faults
    descriptor(0, 0xFFFF, 0x9B, 0x0),  # 48 code, 16 bits
    descriptor(0, 0xFFFF, 0x93, 0x0),  # 50 data, 16 bits
    descriptor(0, 0xFFFF, 0xFB, 0x0),  # 58 code, 16 bits, ring 3
    descriptor(0, 0xFFFF, 0xF3, 0x0),  # 60 data, 16 bits, ring 3
    descriptor(0, FLAT, 0x9F, 0xC),  # 68 conforming code
    descriptor(0, FLAT, 0xBB, 0xC),  # 70 code, ring 1
    descriptor(0, FLAT, 0xB3, 0xC),  # 78 data, ring 1
    descriptor(0, FLAT, 0xDB, 0xC),  # 80 code, ring 2
    descriptor(0, FLAT, 0xD3, 0xC),  # 88 data, ring 2
    descriptor(0, FLAT, 0xF9, 0xC),  # 90 execute only, ring 3
    descriptor(0, FLAT, 0xF0, 0xC),  # 98 read only, ring 3
    descriptor(0, FLAT, 0x12, 0xC),  # A0 absent data
    descriptor(0, FLAT, 0x1A, 0xC),  # A8 absent code
    gate(0x08, LANDING, 12, 3),  # B0 call gate
    gate(0x08, LANDING + 2, 12, 3, parameters=3),  # B8 with parameters
    gate(0x48, LANDING + 4, 4, 3, parameters=2),  # C0 16-bit call gate
    gate(0x68, LANDING + 6, 12, 3),  # C8 to conforming code
    gate(0x70, LANDING + 8, 12, 3),  # D0 to ring 1
    gate(0x30, 0, 5, 3),  # D8 task gate
    gate(0x10, LANDING, 12, 3),  # E0 call gate to data
    descriptor(LDT, 0x3F, 0x82, 0),  # E8 LDT
    descriptor(ARENA, ARENA_SIZE - 1, 0xF3, 0x4),  # F0 data with a base
    descriptor(SECOND_LANDING, 0xFFFF, 0xFB, 0x4),  # F8 code with a base, ring 3
    descriptor(0, 0x9FFF, 0xF6, 0x4),  # 100 data that grows down
    descriptor(SECOND_LANDING, 0xFFFF, 0x9B, 0x4),  # 108 code with a base, ring 0
    descriptor(0, FLAT, 0xFF, 0xC),  # 110 conforming code, ring 3
    descriptor(LDT, 0x3F, 0x02, 0),  # 118 absent LDT
]
FIXED = len(DESCRIPTORS) * 8
"""Selectors below this one are in every GDT; those above are made for the case."""
FREE = 0x180 - FIXED
LOCALS = [
    bytes(8),
    descriptor(0, FLAT, 0xFB, 0xC),
    descriptor(0, FLAT, 0xF3, 0xC),
    descriptor(0, FLAT, 0x9B, 0xC),
    descriptor(0, FLAT, 0x93, 0xC),
    descriptor(ARENA, 0xFFF, 0xF2, 0x4),
    gate(0x08, LANDING, 12, 3),
    bytes(8),
]

PAGES = (0x67, 0x67, 0x27, 0x07, 0x25, 0x05, 0x63, 0x61, 0x65, 0x00, 0x03, 0x66)
"""Ways to map a page: present, writable, user, accessed, dirty or not."""


def task(eip: int, esp: int, *, cs: int = 0x08, data: int = 0x10, eflags: int = 2) -> bytes:
    """A TSS, with inner stacks in the arena's first page and a permission bitmap of ones."""
    words = [0, ARENA + 0x800, 0x10, ARENA + 0xA00, 0x79, ARENA + 0xB00, 0x8A, DIRECTORY, eip, eflags]
    words += [0x11111111 * n for n in range(4)] + [esp, 0x55555555, 0x66666666, 0x77777777]
    words += [data, cs, data, data, 0, 0, 0, 0x68 << 16]
    return struct.pack("<26I", *words) + b"\xff" * (0x100 - 104)


def regions() -> list[tuple[str, int, bytes]]:
    """The memory that every case begins with: name, address, contents."""
    arena = bytearray(struct.pack("<4096I", *(n * 0x01010101 + 0x1234 & 0xFFFFFFFF for n in range(4096))))
    for n in range(SLOT_COUNT):
        pointer = struct.pack("<IHH", LANDING + 2 * n, (0x08, 0x1B, 0x10, 0x23)[n % 4], 0)
        arena[SLOTS - ARENA + 8 * n : SLOTS - ARENA + 8 * n + 8] = pointer
    pointers = ((0x17F, GDT), (FIXED - 1, GDT), (VECTORS * 8 - 1, IDT), (0x41 * 8 - 1, IDT))
    for n, pointer in enumerate(pointers):
        arena[POINTERS - ARENA + 8 * n : POINTERS - ARENA + 8 * n + 6] = struct.pack("<HI", *pointer)
    pages = [0] * 32
    pages[LANDING >> 12] = LANDING | 0x25
    pages[LANDING + SECOND_LANDING >> 12] = LANDING + SECOND_LANDING | 0x25
    pages[CODE >> 12] = CODE | 0x67
    for page in range(ARENA, ARENA + ARENA_SIZE, 0x1000):
        pages[page >> 12] = page | 0x67
    gates = [gate(0x08, STUBS + 16 * n, 14, 3 if n >= 32 or n in (3, 4) else 0) for n in range(VECTORS)]
    gates[8] = gate(0x40, 0, 5, 0)
    tasks = task(LANDING, ARENA + 0x900), task(LANDING, ARENA + 0x900), task(LANDING, ARENA + 0x900)
    return [
        ("pages", LOW_TABLE, struct.pack("<32I", *pages)),
        ("code", CODE, b"\xcd\x40" * (CODE_SIZE // 2)),
        ("arena", ARENA, bytes(arena)),
        ("gdt", GDT, b"".join(DESCRIPTORS).ljust(LDT - GDT, b"\0") + b"".join(LOCALS)),
        ("idt", IDT, b"".join(gates)),
        ("tss", TSSS, b"".join(tasks) + task(DOUBLE_FAULT_TASK, 0x5F3000)),
    ]


REGISTERS = ("edi", "esi", "ebp", "ebx", "edx", "ecx", "eax")
SEGMENTS = ("gs", "fs", "es", "ds")


PLACE = ("eip", "cs", "eflags", "esp", "ss", "v86_es", "v86_ds", "v86_fs", "v86_gs")
"""What IRET loads, and an event stores: at most, in virtual-8086 mode."""


@dataclass
class Case:
    """What guests/batch wants of a case, and what is said of it."""

    seed: int
    words: dict[str, int] = field(default_factory=dict)
    pokes: dict[int, int] = field(default_factory=dict)
    """Address of a word of memory -> its value."""
    code: bytes = b""
    big: bool = True
    """Is it 32-bit code?"""
    cpl: int = 0
    virtual_8086: bool = False
    kinds: list[str] = field(default_factory=list)
    """Names of the instructions that it is made of."""

    FIELDS = (*SEGMENTS, *REGISTERS, *PLACE, "cr0", "cr4", "gdt_limit", "idt_limit", "local")

    def packed(self) -> bytes:
        words = [self.words.get(name, 0) for name in self.FIELDS]
        pokes = dict(self.pokes)
        padded = self.code + b"\xcd\x40"[len(self.code) & 1 :] + b"\xcd\x40" * 2
        for at in range(0, len(padded) & ~3, 4):
            pokes[CODE + at] = int.from_bytes(padded[at : at + 4], "little")
        assert len(pokes) <= MOST_POKES, len(pokes)
        # Permissions come last: they are not meant for those who change memory before the case.
        ordered = sorted(pokes.items(), key=lambda poke: poke[0] >= LOW_TABLE)
        flat = [word for poke in ordered for word in poke]
        return struct.pack(f"<{len(words)}I", *words) + struct.pack(
            f"<I{2 * MOST_POKES}I", len(pokes), *flat, *[0] * (2 * MOST_POKES - len(flat))
        )

    def set(self, address: int, data: bytes) -> None:
        for at in range(0, len(data), 4):
            self.pokes[address + at] = int.from_bytes(data[at : at + 4], "little")
