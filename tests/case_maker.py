"""Small cases for processors to be compared by: a state of the machine, and a few instructions.

A case is named by one number, its seed, from which everything follows. It begins in any ring or in
virtual-8086 mode, in 16-bit or 32-bit code, with random segments, flags, tables and page permissions, and ends
with the first event: an exception, an INT n, or the INT 0x40 that follows the last instruction and that all
far transfers lead to. See guests/batch, which runs them.

Whoever may stop or loop a processor is not tried: no HLT in ring 0, no jump back, no CR0.PE := 0. And what
no two machines agree on is overwritten at once: the time, CPUID, model-specific registers.
"""

from __future__ import annotations

import random
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

    FIELDS = (
        *SEGMENTS,
        *REGISTERS,
        "eip",
        "cs",
        "eflags",
        "esp",
        "ss",
        "v86_es",
        "v86_ds",
        "v86_fs",
        "v86_gs",
    )
    FIELDS += ("cr0", "cr4", "gdt_limit", "idt_limit", "local")

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


WILD = frozenset(("strings", "odds", "moves", "arithmetic", "segment_load", "ports"))
"""Instructions that may access any memory."""


class CaseMaker:
    """Draws one case from its seed. ``holes``: with the instructions that a kernel under ``trap`` cannot trust."""

    def __init__(self, seed: int, *, holes: bool = True) -> None:
        self.random = random.Random(seed * 2 + holes)
        self.holes = holes
        self.case = Case(seed)
        self.trapping = False
        """May TF be set? Then nothing can be overwritten in time."""
        self.unpaged = False
        """May paging be off? Then what is not memory can be reached, where QEMU has a BIOS, and zeros in the holes."""

    # ---------------------------------------------------------------- values

    def selector(self) -> int:
        r = self.random.random()
        if r < 0.75:
            index = self.random.randrange(0, FIXED, 8)
            # Not the TSS of the task for double faults: nothing would be left to catch one.
            return (0x38 if index == 0x40 else index) | self.random.choice((0, 0, 1, 2, 3, 3))
        if r < 0.85:
            return self.random.randrange(0, 0x48, 8) | 4 | self.random.choice((0, 3))
        if r < 0.97:
            return self.random.randrange(FIXED, 0x188, 8) | self.random.choice((0, 3))
        return self.random.randrange(0x180, 1 << 16)

    def address(self) -> int:
        """Mostly in the arena, often at the seams of its pages."""
        r = self.random.random()
        if r < 0.35:
            return SLOTS + 8 * self.random.randrange(SLOT_COUNT)
        if r < 0.65:
            return ARENA + 0x1000 * self.random.randrange(4) + self.random.randrange(0, 0x400, 2)
        if r < 0.9:
            return ARENA + 0x1000 * self.random.randrange(1, 5) - self.random.randrange(1, 9)
        return self.random.choice(
            (0, 4, ARENA - 2, 0xFFFFFFFC, 0xFFFFFFFF, 0x10000, 0xFFFF, 0x80000000, 0xB000)
        )

    def value(self) -> int:
        r = self.random.random()
        if r < 0.45:
            return self.address()
        if r < 0.7:
            return self.selector()
        if r < 0.85:
            return self.random.choice((0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF))
        return self.random.randrange(1 << 32)

    def flags(self) -> int:
        r = self.random
        value = 2 | r.getrandbits(12) & 0x8D5
        for bit, chance in (
            (TF, 0.05),
            (IF, 0.4),
            (DF, 0.1),
            (NT, 0.08),
            (AC, 0.1),
            (1 << 21, 0.1),
            (1 << 16, 0.03),
        ):
            value |= bit if r.random() < chance else 0
        self.trapping |= value & TF != 0
        return value | r.choice((0, 0, 1, 2, 3, 3)) << 12

    # ---------------------------------------------------------------- encodings

    @property
    def word(self) -> int:
        """Bytes of an immediate operand without a prefix."""
        return 4 if self.case.big else 2

    def immediate(self, value: int) -> bytes:
        return (value & 0xFFFFFFFF).to_bytes(4, "little")[: self.word]

    def load(self, register: int, value: int) -> bytes:
        """MOV register, value: all of it, whatever the operand size."""
        return (
            (b"" if self.case.big else b"\x66")
            + bytes((0xB8 | register,))
            + struct.pack("<I", value & 0xFFFFFFFF)
        )

    def memory(self, reg: int, address: int | None = None) -> bytes:
        r = self.random
        if self.unpaged and address is None:
            address = SLOTS + 8 * r.randrange(SLOT_COUNT)
        if address is None and r.random() < 0.35:
            if self.case.big:
                return bytes((0x40 | reg << 3 | r.choice((0, 1, 2, 3, 6, 7)), r.randrange(64)))
            return bytes((0x40 | reg << 3 | r.choice((4, 5, 7)), r.randrange(64)))
        at = self.address() if address is None else address
        if self.case.big:
            return bytes((reg << 3 | 5,)) + struct.pack("<I", at)
        return bytes((reg << 3 | 6,)) + struct.pack("<H", at & 0xFFFF)

    def operand(self, reg: int, chance: float = 0.5) -> bytes:
        if self.random.random() < chance:
            return bytes((0xC0 | reg << 3 | self.register(),))
        return self.memory(reg)

    def register(self) -> int:
        """Not ESP: that one is changed by other means."""
        return self.random.choice((0, 1, 2, 3, 5, 6, 7))

    # ---------------------------------------------------------------- instructions

    def interrupt_flag(self) -> bytes:
        return self.random.choice((b"\xfa", b"\xfb"))

    def flags_image(self) -> bytes:
        r = self.random
        prefix = r.choice((b"", b"", b"\x66"))
        size = self.word if not prefix else 6 - self.word
        if r.random() < 0.45:
            return prefix + b"\x9c"
        image = self.flags() & ((1 << 8 * size) - 1)
        return prefix + b"\x68" + image.to_bytes(size, "little") + prefix + b"\x9d"

    def table_register(self) -> bytes:
        """SGDT, SIDT, SLDT, STR, SMSW."""
        r = self.random
        kind = r.randrange(5)
        prefix = r.choice((b"", b"", b"\x66"))
        if kind < 2:
            return prefix + b"\x0f\x00" + self.operand(kind)
        if kind < 4:
            return prefix + b"\x0f\x01" + self.memory(kind - 2)
        return prefix + b"\x0f\x01" + self.operand(4)

    def look(self) -> bytes:
        """LAR, LSL, VERR, VERW."""
        r = self.random
        setup = self.load(1, self.selector()) if r.random() < 0.7 else b""
        kind = r.randrange(4)
        reg = self.register()
        prefix = r.choice((b"", b"", b"\x66"))
        source = bytes((0xC1,)) if setup else self.operand(0)
        if kind < 2:
            return setup + prefix + bytes((0x0F, 2 + kind, source[0] | reg << 3)) + source[1:]
        return setup + b"\x0f\x00" + bytes((source[0] & 0xC7 | (2 + kind) << 3,)) + source[1:]

    def ring_shown(self) -> bytes:
        """MOV and PUSH of CS and SS."""
        r = self.random
        if r.random() < 0.4:
            return r.choice((b"\x0e", b"\x16", b"\x66\x0e", b"\x66\x16"))
        return r.choice((b"", b"", b"\x66")) + b"\x8c" + self.operand(r.choice((1, 2)))

    def control(self) -> bytes:
        r = self.random
        kind = r.randrange(10)
        reg = self.register()
        if kind < 3:
            return b"\x0f\x20" + bytes((0xC0 | r.choice((0, 0, 2, 3, 4, 1, 5, 7)) << 3 | reg,))
        if kind < 5:
            value = (
                PE
                | ET
                | r.choice((PG, PG, PG, PG, PG, PG, 0))
                | WP * r.randrange(2)
                | r.choice((0, 0, MP, EM, TS, NE, AM))
            )
            if r.random() < 0.08:
                value ^= r.choice((1 << 29, 1 << 30, 3 << 29, 1 << 25))
            self.unpaged |= not value & PG
            return self.load(reg, value) + b"\x0f\x22" + bytes((0xC0 | reg,))
        if kind < 6:
            return (
                self.load(reg, DIRECTORY | r.choice((0, 0, 8, 0x10, 0x18)))
                + b"\x0f\x22"
                + bytes((0xD8 | reg,))
            )
        if kind < 7:
            value = r.choice((0, TSD, DE, PSE, OSFXSR, OSXMMEXCPT, TSD | DE))
            return self.load(reg, value) + b"\x0f\x22" + bytes((0xE0 | reg,))
        if kind < 8:
            return b"\x0f\x22" + bytes((0xD0 | reg,))
        if kind < 9:
            return b"\x0f\x06"
        value = PE | r.randrange(16)
        return self.load(reg, value) + b"\x0f\x01" + bytes((0xF0 | reg,))

    def debug(self) -> bytes:
        r = self.random
        number, reg = r.randrange(8), self.register()
        if r.random() < 0.6:
            return b"\x0f\x21" + bytes((0xC0 | number << 3 | reg,))
        value = r.choice((0x400, 0, 0xFFFF0FF0, 0x12345678 & ~0xFF, 0x4000))
        return (
            self.load(reg, value & ~0x23FF if number in (5, 7) else value)
            + b"\x0f\x23"
            + bytes((0xC0 | number << 3 | reg,))
        )

    def system_load(self) -> bytes:
        """LGDT, LIDT, LLDT, LTR, INVLPG, INVD, WBINVD."""
        r = self.random
        kind = r.randrange(8)
        if kind < 2:
            # By CS, which always begins at 0.
            return b"\x2e\x0f\x01" + self.memory(2, POINTERS + 8 * r.randrange(2))
        if kind < 3:
            return b"\x2e\x0f\x01" + self.memory(3, POINTERS + 16 + 8 * r.randrange(2))
        if kind < 6:
            reg, value = self.register(), r.choice((self.selector(), 0xE8, 0x30, 0x28, 0))
            # LLDT, and LTR of all but null: where QEMU takes it, the case may end in a triple fault.
            form = r.choice((2, 2, 3)) if value & ~3 else 2
            return self.load(reg, value) + b"\x0f\x00" + bytes((0xC0 | form << 3 | reg,))
        if kind < 7:
            return b"\x0f\x01" + self.memory(7)
        return r.choice((b"\x0f\x08", b"\x0f\x09"))

    def scrubbed(self) -> bytes:
        """RDTSC, CPUID, RDPMC, RDMSR: who may, is compared, and not what they say."""
        r = self.random
        code = r.choice(
            (b"\x0f\x31", b"\x0f\xa2", b"\x0f\x33" if self.case.cpl else b"\x0f\x31", b"\x0f\x32")
        )
        setup = self.load(1, r.choice((0x10, 0x174))) if code == b"\x0f\x32" else b""
        if code == b"\x0f\xa2":
            setup = self.load(0, r.choice((0, 1, 0x80000000)))
        after = b"".join(self.load(n, self.value()) for n in (0, 2))
        if code == b"\x0f\xa2":
            after += self.load(1, 5) + self.load(3, self.address())
        return setup + code + after

    def ports(self) -> bytes:
        r = self.random
        port = r.choice((0x21, 0xA1, 0x80, 0x22, 0x90, 0x9F, 0x300, 0x31F, 0x4BF, 0x4C0, 0x8021))
        kind = r.randrange(6)
        prefix = r.choice((b"", b"", b"\x66"))
        set_port = self.load(2, port)
        if kind < 2:
            return prefix + bytes((r.choice((0xE4, 0xE5)), r.choice((0x21, 0xA1, 0x22, 0x90))))
        if kind < 3:
            return set_port + prefix + bytes((r.choice((0xEC, 0xED)),))
        if kind < 4:
            harmless = self.load(2, r.choice((0x80, 0x90, 0x300, 0x31F, 0x8021)))
            return harmless + prefix + bytes((r.choice((0xEE, 0xEF)),))
        setup = self.load(1, r.randrange(6)) if r.random() < 0.6 else b""
        rep = b"\xf3" if setup else b""
        if kind < 5:
            return set_port + setup + rep + prefix + bytes((r.choice((0x6C, 0x6D)),))
        return self.load(2, r.choice((0x80, 0x300))) + setup + rep + prefix + bytes((r.choice((0x6E, 0x6F)),))

    def interrupts(self) -> bytes:
        r = self.random
        return r.choice(
            (
                b"\xcc",
                b"\xce",
                b"\xf1",
                b"\x0f\x0b",
                b"\xcd" + bytes((r.choice((0x30, 0x41, 0x4F, 1, 6, 3, 0x50)),)),
            )
        )

    def undefined(self) -> bytes:
        r = self.random
        lock = b"\xf0" + r.choice((b"\x90", b"\x8b\xc1", b"\x01\xc8", b"\xfa", b"\x0f\x06"))
        return r.choice(
            (
                b"\x0f\x0b",
                b"\x0f\xaa",
                b"\x0f\xff",
                b"\xff\xff",
                b"\xfe\xf8",
                b"\x0f\x00\xf8",
                lock,
                b"\x8e\xc8",
            )
        )

    def segment_load(self) -> bytes:
        r = self.random
        kind = r.randrange(10)
        sreg = r.choice((0, 3, 4, 5, 0, 3, 2))
        reg = self.register()
        if kind < 5:
            return self.load(reg, self.selector()) + b"\x8e" + bytes((0xC0 | sreg << 3 | reg,))
        if kind < 6:
            return b"\x8e" + self.memory(sreg)
        if kind < 8:
            pop = {0: b"\x07", 2: b"\x17", 3: b"\x1f", 4: b"\x0f\xa1", 5: b"\x0f\xa9"}[sreg]
            return b"\x68" + self.immediate(self.selector()) + pop
        load = r.choice((b"\xc4", b"\xc5", b"\x0f\xb2", b"\x0f\xb4", b"\x0f\xb5"))
        at = SLOTS + 8 * r.randrange(SLOT_COUNT) if r.random() < 0.8 else None
        return r.choice((b"", b"", b"\x66")) + load + self.memory(reg, at)

    def segment_read(self) -> bytes:
        r = self.random
        if r.random() < 0.4:
            return r.choice((b"\x06", b"\x1e", b"\x0f\xa0", b"\x0f\xa8", b"\x66\x1e", b"\x66\x06"))
        return r.choice((b"", b"", b"\x66")) + b"\x8c" + self.operand(r.choice((0, 3, 4, 5, 6)))

    def landing(self) -> int:
        return LANDING + 2 * self.random.randrange(0x180)

    def far(self) -> bytes:
        """JMP and CALL to another segment."""
        r = self.random
        if r.random() < 0.6:
            code = r.choice((b"\x9a", b"\xea")) + self.immediate(self.landing())
            return code + struct.pack("<H", self.far_selector())
        return b"\xff" + self.memory(r.choice((3, 5)), SLOTS + 8 * r.randrange(SLOT_COUNT))

    def far_selector(self) -> int:
        """One that transfers can go to; in virtual-8086 mode, one that leads to a landing place."""
        return self.random.choice((0, 0, 0x1000)) if self.case.virtual_8086 else self.selector()

    def returns(self) -> bytes:
        """A frame is pushed and returned through."""
        r = self.random
        pairs = (
            (0x1B, 0x23),
            (0x08, 0x10),
            (0x71, 0x79),
            (0x82, 0x8A),
            (0x5B, 0x63),
            (0x48, 0x50),
            (0x6B, 0x23),
        )
        cs, ss = r.choice(pairs) if r.random() < 0.7 else (self.selector(), self.selector())
        if self.case.virtual_8086:
            cs = self.far_selector()
        flags = self.flags() | (VM if r.random() < 0.15 else 0)
        if flags & VM and not self.case.virtual_8086:
            cs, ss = self.random.choice((0, 0x1000)), 0xA00
        frame = [self.landing(), cs, flags, self.address(), ss]
        frame += [r.choice((0, 0xA00, 0xB00)) for _ in range(4)] if flags & VM else []
        kind = r.choice((b"\xcf", b"\xcf", b"\xcb", b"\xca\x08\x00"))
        if kind[0] != 0xCF:
            del frame[2]
            if kind[0] == 0xCA:
                frame[2:2] = [0x1234] * (8 // self.word)
        return b"".join(b"\x68" + self.immediate(word) for word in reversed(frame)) + kind

    def strings(self) -> bytes:
        r = self.random
        setup = b""
        if r.random() < 0.6:
            setup = self.load(6, self.address()) + self.load(7, self.address())
        code = r.choice((0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF))
        if r.random() < 0.5:
            setup += self.load(1, r.choice((0, 1, 2, 5, 20)))
            return setup + r.choice((b"\xf3", b"\xf2")) + bytes((code,))
        return setup + bytes((code,))

    def moves(self) -> bytes:
        r = self.random
        kind = r.randrange(6)
        if kind < 2:
            return self.load(self.register(), self.value())
        if kind < 4:
            reg = self.register()
            return bytes((r.choice((0x89, 0x8B, 0x87, 0x88, 0x8A)),)) + self.memory(reg if reg != 4 else 0)
        if kind < 5:
            return bytes((0x50 | r.randrange(8),))
        return r.choice(
            (b"\x68" + self.immediate(self.value()), b"\x6a" + bytes((r.randrange(256),)), b"\x60", b"\x61")
        )

    def arithmetic(self) -> bytes:
        r = self.random
        kind = r.randrange(7)
        reg = self.register()
        if kind < 2:
            return bytes((r.randrange(8) << 3 | r.choice((0, 1, 2, 3)),)) + self.operand(self.register())
        if kind < 3:
            return bytes((r.choice((0x40, 0x48)) | reg,))
        if kind < 4:
            return b"\xd1" + self.operand(r.choice((0, 1, 2, 3, 4, 5, 7)))
        if kind < 5:
            return (
                b"\x0f"
                + bytes((r.choice((0x90, 0x40)) | r.randrange(16),))
                + self.operand(reg if reg < 4 else 0)
            )
        if kind < 6:
            return (
                b"\x0f"
                + bytes((r.choice((0xB0, 0xB1, 0xC0, 0xC1, 0xB6, 0xBE)),))
                + (bytes((0xC0 | reg << 3 | self.register(),)))
            )
        return r.choice((b"\xf6", b"\xf7")) + self.operand(r.choice((2, 3, 6, 7)))

    def odds(self) -> bytes:
        r = self.random
        return r.choice(
            (
                b"\x63" + self.operand(self.register()),  # ARPL
                b"\x62" + self.memory(self.register()),  # BOUND
                b"\x9b",
                b"\xdb\xe3",
                b"\xdf\xe0",
                b"\xd9" + self.memory(7),
                b"\x0f\xc7" + self.memory(1) + b"\x85\xc0",  # CMPXCHG8B, and TEST to have flags again
                b"\xd7",
                b"\x9e",
                b"\x9f",
                b"\xc9" if r.random() < 0.3 else b"\xf8",
                b"\xc8\x08\x00\x00",
                b"\xfc",
                b"\xfd",
                b"\x27",
                b"\xd4\x0a",
                b"\xd4\x00",
                b"\x8f" + self.memory(0),
                b"\x0f\x77",
                b"\x0f\x57\xc0",
            )
        )

    def rewriting(self) -> bytes:
        """Code that writes the instruction after it."""
        r = self.random
        new = r.choice((0x90, 0xFA, 0xFB, 0x40, 0xCC, 0x9C if self.holes else 0x41))
        size = 7 if self.case.big else 5
        at = CODE + len(self.case.code) + size
        return b"\xc6" + self.memory(0, at) + bytes((new,)) + b"\x90"

    # ---------------------------------------------------------------- the whole

    def begin(self) -> None:
        """The mode: ring, code size, stack, segments."""
        r, case, w = self.random, self.case, self.case.words
        mode = r.choice((0, 0, 0, 0, 1, 2, 3, 3, 3, 8))
        w["eflags"] = self.flags()
        w["eip"] = CODE
        page = r.choice((0, 0, 0, 1, 2, 3))
        w["esp"] = ARENA + 0x1000 * page + r.choice((0x700, 0x702, 0x780, 0xFC0, 0x1000, 8))
        if mode == 8:
            case.virtual_8086, case.cpl, case.big = True, 3, False
            w["eflags"] = w["eflags"] & ~NT | VM
            w["cs"] = r.choice((0, 0x800, 0x7F0, 0x400))
            w["eip"] = CODE - 16 * w["cs"]
            w["ss"] = r.choice((0, 0xA00))
            w["esp"] -= 16 * w["ss"]
            for name in ("v86_es", "v86_ds", "v86_fs", "v86_gs"):
                w[name] = r.choice((0, 0, 0xA00, 0xB00, 0xFFFF))
            w["ds"] = w["es"] = 0x10
            return
        case.cpl = mode
        narrow = r.random() < 0.12
        case.big = not narrow or mode in (1, 2)
        code = {0: 0x08, 1: 0x71, 2: 0x82, 3: 0x1B}[mode] if case.big else {0: 0x48, 3: 0x5B}[mode]
        if case.big and r.random() < 0.04:
            code = {0: 0x68, 1: 0x69, 2: 0x6A, 3: 0x6B}[mode]
        stack = {0: 0x10, 1: 0x79, 2: 0x8A, 3: 0x23}[mode]
        if mode in (0, 3) and r.random() < 0.12:
            stack = {0: 0x50, 3: 0x63}[mode]
        if mode == 3 and r.random() < 0.06:
            stack = 0xF3
            w["esp"] -= ARENA
        w["cs"], w["ss"] = code, stack
        flat = {0: 0x10, 1: 0x79, 2: 0x8A, 3: 0x23}[mode]
        for name in SEGMENTS:
            w[name] = (
                flat if r.random() < 0.6 else r.choice((0x23, 0x20, 0xF3, 0x9B, 0x00, 0x63, flat, 0x103))
            )

    def surroundings(self) -> None:
        """Control registers, tables, page permissions, data."""
        r, case, w = self.random, self.case, self.case.words
        w["cr0"] = (
            PE | ET | (PG if r.random() < 0.9 or case.virtual_8086 else 0) | (WP if r.random() < 0.6 else 0)
        )
        self.unpaged = not w["cr0"] & PG
        for bit, chance in ((TS, 0.1), (EM, 0.07), (MP, 0.3), (NE, 0.3), (AM, 0.1)):
            w["cr0"] |= bit if r.random() < chance else 0
        w["cr4"] = 0
        for bit in (TSD, DE, PSE, OSFXSR):
            w["cr4"] |= bit if r.random() < 0.2 else 0
        w["gdt_limit"] = 0x17F if r.random() < 0.8 else r.randrange(FIXED - 1, 0x180)
        w["idt_limit"] = VECTORS * 8 - 1 if r.random() < 0.9 else r.randrange(0x207, 0x280)
        w["local"] = r.choice((0xE8, 0xE8, 0))
        for name in REGISTERS:
            w[name] = self.value()
        for _ in range(r.randrange(3)):
            slot = SLOTS + 8 * r.randrange(SLOT_COUNT)
            case.set(slot, struct.pack("<IHH", self.landing(), self.far_selector(), 0))
        if r.random() < 0.5:
            access = r.randrange(256)
            case.set(
                r.choice((GDT + FIXED + 8 * r.randrange(FREE // 8), LDT + 8 * r.randrange(8))),
                self.random_descriptor(access),
            )
        if r.random() < 0.2:
            self.random_gate()
        if r.random() < 0.3:
            page = r.randrange(1, 4)
            case.pokes[LOW_TABLE + 4 * (ARENA >> 12) + 4 * page] = ARENA + 0x1000 * page | r.choice(PAGES)
        if r.random() < 0.3:
            page = r.randrange(1, 4)
            case.pokes[LOW_TABLE + 4 * (ARENA >> 12) + 4 * page] = ARENA + 0x1000 * page | r.choice(PAGES)
        if r.random() < 0.03:
            case.pokes[LOW_TABLE + 4 * (CODE >> 12)] = CODE | r.choice((0x63, 0x65, 0x25, 0x07, 0x05, 0x00))
        if r.random() < 0.1:
            field, value = r.choice(
                (
                    (4, ARENA + 0x2000),
                    (8, self.selector()),
                    (12, ARENA + 0x3004),
                    (16, self.selector()),
                    (8, 0x10),
                )
            )
            case.pokes[TSSS + field] = value
        if r.random() < 0.3:
            case.pokes[TSSS + 0x64] = r.choice((0x68, 0x68, 0xDF, 0xF8, 0x100, 0xFFFF)) << 16
            case.pokes[TSSS + 0x68 + r.choice((4, 0x10, 0x60))] = r.choice((0, r.randrange(1 << 32)))

    def random_descriptor(self, access: int) -> bytes:
        r = self.random
        if access & 0x10:
            base, limit, flags = r.choice(
                ((0, FLAT, 0xC), (0, 0xFFFF, 0x4), (ARENA, 0xFFF, 0x4), (0, 0xFFFF, 0x0))
            )
            return descriptor(base, limit, access, flags)
        if access & 15 in (1, 3, 9, 11):
            return descriptor(TSSS + 0x100, r.choice((0xFF, 0x67, 0x66, 0x2B, 0x20)), access, 0)
        if access & 15 == 2:
            return descriptor(LDT, r.choice((0x3F, 0x17)), access, 0)
        selector = r.choice((0x08, 0x70, 0x68, 0x10, 0, 0x30, 0x1B))
        return gate(
            selector, self.landing(), access & 15, access >> 5 & 3, access >> 7, r.choice((0, 0, 1, 4))
        )

    def random_gate(self) -> None:
        r = self.random
        vector = r.choice((0x40, 0x41, 0x30, 0x4F, 3, 4, 6, 7, 13, 13, 14, 12, 11, 10, 1, 0))
        with_error = vector in (10, 11, 12, 13, 14)
        offset = (AFTER_GATE_WITH_ERROR if with_error else AFTER_GATE) if vector < 32 else LANDING + 0x380
        kind = r.choice((14, 15, 14, 15, 6, 7, 5, 12, r.randrange(16)))
        selector = r.choice((0x08, 0x08, 0x08, 0x68, 0x70, 0x10, 0x18, 0xA8, 0x48, 0, 0x110))
        if kind == 5:
            selector = r.choice((0x30, 0x30, 0x38, 0x28, 0x10))
        if vector == 0x40 and selector != 0x08:
            # All else leads to INT 0x40: it has to get through, or to fail.
            selector = 0x10
        if vector == 0x40 and kind in (6, 7, 5):
            kind = 14
        if vector == 0x40:
            offset = STUBS + 16 * vector
        self.case.set(
            IDT + 8 * vector, gate(selector, offset, kind, r.choice((0, 3, 3, 1)), int(r.random() < 0.9))
        )

    def make(self) -> Case:
        self.begin()
        self.surroundings()
        r, case = self.random, self.case
        kinds = {
            **dict.fromkeys(("interrupt_flag", "control", "debug", "system_load", "scrubbed", "ports"), 3),
            **dict.fromkeys(("segment_load", "segment_read", "moves", "arithmetic"), 5),
            **dict.fromkeys(("interrupts", "undefined", "far", "returns", "strings", "odds", "rewriting"), 2),
        }
        if self.holes:
            kinds |= {"flags_image": 5, "table_register": 5, "look": 5, "ring_shown": 5}
        if case.cpl:
            kinds |= {"hlt": 1, "control": 1, "debug": 1, "system_load": 1}
        names, weights = list(kinds), list(kinds.values())
        for _ in range(r.choice((1, 2, 3, 4, 6, 8))):
            name = r.choices(names, weights)[0]
            if (name == "scrubbed" and self.trapping) or (name in WILD and self.unpaged):
                continue
            part = b"\xf4" if name == "hlt" else getattr(self, name)()
            if r.random() < 0.03 and name not in ("rewriting", "far", "returns", "system_load"):
                part = r.choice((b"\x2e", b"\x36", b"\x26", b"\x64", b"\x65")) + part
            if len(case.code) + len(part) > LONGEST_CODE - (
                4 * len(case.pokes) - 56 if len(case.pokes) > 14 else 0
            ):
                break
            case.code += part
            case.kinds.append(name)
        return case
