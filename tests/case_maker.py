"""Small cases for processors to be compared by: a state of the machine, and a few instructions.

A case is named by one number, its seed, from which everything follows. It begins in any ring or in
virtual-8086 mode, in 16-bit or 32-bit code, with random segments, flags, tables and page permissions, and ends
with the first event: an exception, an INT n, or the INT 0x40 that follows the last instruction and that all
far transfers lead to. See guests/batch, which runs them.

Whoever may stop or loop a processor is not tried: no HLT in ring 0, no jump back, no CR0.PE := 0. And what
no two machines agree on is overwritten at once: the time, CPUID, model-specific registers.
"""

from __future__ import annotations

import struct

from case_ground import (
    AFTER_GATE,
    AFTER_GATE_WITH_ERROR,
    AM,
    ARENA,
    CODE,
    DE,
    EM,
    ET,
    FIXED,
    FLAT,
    FREE,
    GDT,
    IDT,
    LANDING,
    LDT,
    LONGEST_CODE,
    LOW_TABLE,
    MP,
    NE,
    NT,
    OSFXSR,
    PAGES,
    PE,
    PG,
    PSE,
    REGISTERS,
    SEGMENTS,
    SLOT_COUNT,
    SLOTS,
    STUBS,
    TS,
    TSD,
    TSSS,
    VECTORS,
    VM,
    WP,
    Case,
)
from case_pieces import Pieces
from guests_kit import descriptor, gate

WILD = frozenset(("strings", "odds", "moves", "arithmetic", "segment_load", "ports", "far", "returns"))
"""Instructions that may access any memory, or go on there: through a pointer that was overwritten, or with a stack."""


class CaseMaker(Pieces):
    """Draws one case from its seed."""

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
