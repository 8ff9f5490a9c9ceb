"""The instructions that cases are made of (see case_maker.py)."""

from __future__ import annotations

import random
import struct

from case_ground import (
    AC,
    AM,
    ARENA,
    CODE,
    DE,
    DF,
    DIRECTORY,
    EM,
    ET,
    FIXED,
    IF,
    LANDING,
    MP,
    NE,
    NT,
    OSFXSR,
    OSXMMEXCPT,
    PE,
    PG,
    POINTERS,
    PSE,
    SLOT_COUNT,
    SLOTS,
    TF,
    TS,
    TSD,
    VM,
    WP,
    Case,
)


class Pieces:
    """Draws values and instructions for one case from its seed.

    ``holes``: with the instructions that a kernel under ``trap`` cannot trust. Each method named as a kind in
    ``CaseMaker.make`` gives the code of one instruction, or of a few that belong together.
    """

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
