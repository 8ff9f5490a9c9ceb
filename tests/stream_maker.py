"""What a stream of random bytes is made of: see hostile_streams.py.

Pure noise soon runs into its first fault, and then into the same triple fault as all other noise. Most
streams are therefore made of instructions that a monitor must fear (privileged, sensitive, segment, far,
string, FPU) with random operands, on a machine whose tables are mostly sensible, so that they get far.
"""

from __future__ import annotations

import random
import struct

from guests_kit import (
    CODE,
    DATA,
    DESCRIPTORS,
    DIRECTORY,
    GDT,
    HANDLERS,
    IDT,
    KERNEL_STACK,
    LDT,
    MEMORY,
    SELECTORS,
    TABLE,
    TABLE_B,
    TSS,
    TSS_B,
    USER_CODE,
    descriptor,
    gate,
)

from hypervisor.machine import VirtualMachine
from hypervisor.monitor.vcpu import Hidden

SPARED = frozenset(range(16))
"""Pages with tables and the stack, which wild page tables seldom touch."""


class Maker:
    """Everything about one stream, drawn from its seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)

    # ---------------------------------------------------------------- instructions

    def selector(self) -> int:
        r = self.random
        return (
            r.choice(SELECTORS) | r.choice((0, 0, 3, 3, r.randrange(8)))
            if r.random() < 0.9
            else r.randrange(1 << 16)
        )

    def address(self) -> int:
        r = self.random
        places = (GDT, IDT, TSS, TSS_B, LDT, HANDLERS, DIRECTORY, TABLE, KERNEL_STACK, CODE, USER_CODE, DATA)
        kind = r.random()
        if kind < 0.6:
            return r.choice(places) + r.randrange(-64, 0x900) & 0xFFFFFFFF
        if kind < 0.75:
            return r.choice(
                (0xA0000, 0xB8000, 0xBFFFE, 0xC0000, 0xFFFFE, MEMORY - 2, MEMORY, 16 << 20)
            ) + r.randrange(-4, 5)
        if kind < 0.85:
            return (r.randrange(1 << 20) << 12 | 0xFFF) - r.randrange(8)
        return r.choice((0, 1, 0xFFFFFFFF, 0xFFFFFFFC, 0x80000000, r.randrange(1 << 32)))

    def value(self) -> int:
        r = self.random
        return r.choice(
            (self.address, self.selector, lambda: r.randrange(1 << 32), lambda: r.randrange(256))
        )()

    def memory_operand(self, reg: int) -> bytes:
        """ModRM with a memory operand (and what follows it) for 32-bit addressing."""
        r = self.random
        if r.random() < 0.6:
            return bytes((reg << 3 | 5,)) + struct.pack("<I", self.address() & 0xFFFFFFFF)
        return bytes((r.randrange(2) << 6 | reg << 3 | r.choice((0, 1, 2, 3, 6, 7)), r.randrange(256)))

    def operand(self, reg: int) -> bytes:
        r = self.random
        return bytes((0xC0 | reg << 3 | r.randrange(8),)) if r.random() < 0.4 else self.memory_operand(reg)

    def privileged(self) -> bytes:
        r = self.random
        kind = r.randrange(16)
        if kind < 4:
            return bytes(
                (r.choice((0xFA, 0xFB, 0xF4, 0x9C, 0x9D, 0xCF, 0xFA, 0xFB, 0xF1, 0xCC, 0xCE, 0xF5)),)
            )
        if kind < 6:
            return b"\x0f" + bytes(
                (
                    r.choice(
                        (
                            0x06,
                            0x08,
                            0x09,
                            0x30,
                            0x31,
                            0x32,
                            0x33,
                            0xA2,
                            0x05,
                            0x07,
                            0x34,
                            0x35,
                            0x0B,
                            0xAA,
                            0x77,
                        )
                    ),
                )
            )
        if kind < 8:
            return b"\x0f" + bytes((r.choice((0, 1)),)) + self.operand(r.randrange(8))
        if kind < 10:
            return b"\x0f" + bytes(
                (r.randrange(0x20, 0x27), r.choice((0xC0, 0xC0, 0xC0, 0x00)) | r.randrange(64))
            )
        if kind < 11:
            return b"\x0f\x01" + bytes((r.randrange(0xC0, 0x100),))
        if kind < 13:
            return bytes(
                (
                    r.choice((0xE4, 0xE5, 0xE6, 0xE7)),
                    r.choice((0x20, 0x21, 0x40, 0x43, 0x60, 0x64, 0x70, 0x71, 0x80, 0x92, r.randrange(256))),
                )
            )
        if kind < 15:
            prefix = r.choice((b"", b"", b"\xf3", b"\xf2", b"\x66"))
            return prefix + bytes((r.choice((0xEC, 0xED, 0xEE, 0xEF, 0x6C, 0x6D, 0x6E, 0x6F)),))
        return b"\xcd" + bytes((r.choice((0x80, 3, 4, 8, 14, 13, r.randrange(256))),))

    def segments(self) -> bytes:
        r = self.random
        kind = r.randrange(10)
        if kind < 3:
            load = b"\x66\xb8" + struct.pack("<H", self.selector())
            return load + b"\x8e" + bytes((0xC0 | r.choice((0, 2, 3, 4, 5, 1)) << 3,))
        if kind < 4:
            return (
                b"\x68"
                + struct.pack("<I", self.selector())
                + r.choice((b"\x07", b"\x17", b"\x1f", b"\x0f\xa1", b"\x0f\xa9"))
            )
        if kind < 6:
            return r.choice((b"\xc4", b"\xc5", b"\x0f\xb2", b"\x0f\xb4", b"\x0f\xb5")) + self.memory_operand(
                r.randrange(8)
            )
        if kind < 8:
            target = (
                r.choice((self.address, lambda: CODE + r.randrange(64), lambda: r.randrange(64)))()
                & 0xFFFFFFFF
            )
            return r.choice((b"\x9a", b"\xea")) + struct.pack("<IH", target, self.selector())
        if kind < 9:
            return b"\xff" + self.memory_operand(r.choice((3, 5)))
        return r.choice(
            (
                b"\x06",
                b"\x0e",
                b"\x16",
                b"\x1e",
                b"\x8c\xd8",
                b"\x8c\x05\x00\x00\x03\x00",
                b"\x0f\x02\xc1",
                b"\x0f\x03\xc1",
            )
        )

    def returns(self) -> bytes:
        """A frame is built and returned through."""
        r = self.random
        flags = r.choice((2, 0x202, 0x102, 0x4002, 0x3202, 0x20202, 0x23202, r.randrange(1 << 32)))
        target = (
            r.choice((CODE, USER_CODE, CODE + r.randrange(256), r.randrange(256), self.address()))
            & 0xFFFFFFFF
        )
        frame = [target, self.selector(), flags, self.address(), self.selector()] + [
            self.selector() for _ in range(4)
        ]
        if r.random() < 0.8:
            frame[1], frame[4] = r.choice(
                ((0x1B, 0x23), (0x08, 0x10), (0x59, 0x61), (0x50, 0x10), (0xC3, 0x23), (0x40, 0x48))
            )
        pushes = b"".join(b"\x68" + struct.pack("<I", word & 0xFFFFFFFF) for word in reversed(frame))
        return pushes + r.choice(
            (b"\xcf", b"\xcf", b"\xcb", b"\xca\x04\x00", b"\x66\xcf", b"\x66\xcb", b"\x9d\xcf")
        )

    def strings(self) -> bytes:
        r = self.random
        setup = b""
        if r.random() < 0.7:
            setup += (
                b"\xbe"
                + struct.pack("<I", self.address() & 0xFFFFFFFF)
                + b"\xbf"
                + struct.pack("<I", self.address() & 0xFFFFFFFF)
            )
        if r.random() < 0.8:
            setup += b"\xb9" + struct.pack(
                "<I", r.choice((0, 1, 2, 5, 64, 1024, 0xFFFFFFFF, r.randrange(1 << 32)))
            )
        if r.random() < 0.3:
            setup += r.choice((b"\xfc", b"\xfd"))
        prefixes = b"".join(
            r.sample((b"\xf3", b"\xf2", b"\x66", b"\x67", b"\x2e", b"\x64", b"\xf0"), r.randrange(3))
        )
        return (
            setup
            + prefixes
            + bytes(
                (
                    r.choice(
                        (0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF, 0x6C, 0x6D, 0x6E, 0x6F)
                    ),
                )
            )
        )

    def floating(self) -> bytes:
        r = self.random
        if r.random() < 0.5:
            return bytes((r.randrange(0xD8, 0xE0),)) + self.operand(r.randrange(8))
        prefix = r.choice((b"", b"\x66", b"\xf2", b"\xf3"))
        if r.random() < 0.15:
            return b"\x0f\xae" + self.operand(r.randrange(8))
        second = r.choice(
            (
                r.randrange(0x10, 0x20),
                r.randrange(0x28, 0x30),
                r.randrange(0x38, 0x3B),
                r.randrange(0x50, 0x80),
                r.randrange(0xC2, 0xC7),
                r.randrange(0xD0, 0x100),
            )
        )
        return prefix + b"\x0f" + bytes((second,)) + self.operand(r.randrange(8)) + bytes((r.randrange(256),))

    def plain(self) -> bytes:
        r = self.random
        kind = r.randrange(8)
        if kind < 2:
            return bytes((0xB8 | r.randrange(8),)) + struct.pack("<I", self.value() & 0xFFFFFFFF)
        if kind < 3:
            return bytes((r.choice((0x89, 0x8B, 0x01, 0x31, 0x87, 0x39, 0x88, 0x8A)),)) + self.operand(
                r.randrange(8)
            )
        if kind < 4:
            return bytes((0x40 | r.randrange(32),))
        if kind < 5:
            return bytes((r.choice((0xEB, 0x70 | r.randrange(16), 0xE2, 0xE3, 0xE8)), r.randrange(256)))
        if kind < 6:
            # Code that writes code: most often a little ahead.
            at = CODE + r.randrange(1024)
            return (
                b"\xc6\x05"
                + struct.pack("<I", at)
                + bytes((r.choice((0x90, 0x40, 0xF4, 0xCC, r.randrange(256))),))
            )
        if kind < 7:
            return (
                bytes((r.choice((0xF6, 0xF7, 0xFE, 0xFF, 0xC0, 0xD3, 0x62, 0x63)),))
                + self.operand(r.randrange(8))
                + bytes((r.randrange(256),))
            )
        return (
            b"\x0f" + bytes((r.randrange(256),)) + self.operand(r.randrange(8)) + bytes((r.randrange(256),))
        )

    def code(self) -> bytes:
        r = self.random
        size = r.choice((32, 128, 512, 3000))
        if r.random() < 0.2:
            return r.randbytes(size)
        kinds = (self.privileged, self.segments, self.returns, self.strings, self.floating, self.plain)
        weights = [r.random() ** 2 for _ in kinds]
        parts = bytearray()
        while len(parts) < size:
            if r.random() < 0.04:
                parts += r.randbytes(r.randrange(1, 6))
            if r.random() < 0.06:
                parts += bytes((r.choice((0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x2E, 0x65)),))
            parts += r.choices(kinds, weights)[0]()
        return bytes(parts)

    # ---------------------------------------------------------------- the machine around it

    def handlers(self) -> bytes:
        """One handler for all vectors without and one for those with an error code, and what the IDT says of them."""
        r = self.random
        simple = r.choice(
            (
                b"\xcf",
                b"\xcf",
                b"\x83\x04\x24\x01\xcf",
                b"\x83\x04\x24\x02\xcf",
                b"\x83\x04\x24\x03\xcf",
                b"\xf4",
                b"\x0f\x0b",
                self.code()[:40],
            )
        )
        return simple.ljust(64, b"\x90") + b"\x83\xc4\x04" + simple

    def idt(self) -> bytes:
        r = self.random
        kind = r.random()
        if kind < 0.05:
            return r.randbytes(2048)
        table = bytearray()
        for vector in range(256):
            offset = HANDLERS + (64 if vector in (8, 10, 11, 12, 13, 14, 17) else 0)
            entry = gate(8, offset, r.choice((14, 15)), r.choice((0, 3)))
            if kind < 0.6 and r.random() < 0.15:
                entry = r.choice(
                    (
                        gate(
                            self.selector(),
                            offset,
                            r.choice((4, 5, 6, 7, 12, 14, 15, r.randrange(32))),
                            r.randrange(4),
                            r.randrange(2),
                        ),
                        gate(0x30, 0, 5, 3),
                        gate(8, offset, 6, 3),
                        bytes(8),
                        r.randbytes(8),
                        gate(0x58, offset, 14, 3),
                        gate(0x50, offset, 14, 3),
                    )
                )
            if vector == 8 and r.random() < 0.5:
                entry = gate(0x30, 0, 5, 0)
            table += entry
        return bytes(table)

    def tss(self, other: int) -> bytes:
        r = self.random
        task = bytearray(0x300)
        stacks = [
            r.choice((KERNEL_STACK,) * 10 + (0, self.address() & 0xFFFFFFFF)),
            r.choice((0x10,) * 10 + (self.selector(),)),
        ]
        struct.pack_into(
            "<HHIIIIII",
            task,
            0,
            other,
            0,
            *stacks,
            KERNEL_STACK - 0x400,
            0x61,
            KERNEL_STACK - 0x600,
            self.selector(),
        )
        flags = r.choice((2, 2, 0x202, 0x20202, 0x4002, r.randrange(1 << 32)))
        general = [self.value() & 0xFFFFFFFF for _ in range(8)]
        general[4] = KERNEL_STACK - 0x200
        struct.pack_into(
            "<III8I",
            task,
            0x1C,
            r.choice((DIRECTORY, DIRECTORY, self.address() & 0xFFFFFFFF)),
            CODE + r.randrange(64),
            flags,
            *general,
        )
        choices = r.choice(
            ((0x10, 8, 0x10, 0x10), (0x23, 0x1B, 0x23, 0x23), (self.selector(), 8, 0x10, self.selector()))
        )
        struct.pack_into(
            "<IIIIIIIHH",
            task,
            0x48,
            *choices,
            self.selector(),
            self.selector(),
            r.choice((0, 0x38, self.selector())),
            r.choice((0, 0, 0, 1)),
            r.choice((0x68, 0x80, 0x300, 0xFFFF)),
        )
        task[0x68:] = r.choice((bytes(0x298), b"\xff" * 0x298, r.randbytes(0x298)))
        return bytes(task)

    def tables(self, ram: memoryview) -> None:
        r = self.random
        wild = r.choice((0, 0, 0, 0.01, 0.01, 0.2))
        for table, base in ((TABLE, 0), (TABLE_B, r.choice((0, 0x80000, 0x100000, 0x400000)))):
            words = [base + (page << 12) | 7 for page in range(1024)]
            for _ in range(int(1024 * wild)):
                # Most of what happens, happens in the first 64 pages.
                page = r.randrange(r.choice((64, 1024)))
                if page not in SPARED or r.random() < 0.1:
                    words[page] = r.choice(
                        (
                            r.randrange(1 << 32),
                            r.randrange(1 << 9) << 12 | r.randrange(4096),
                            words[page] & ~r.choice((1, 2, 4, 6)),
                            DIRECTORY | 7,
                            TABLE | 7,
                            0x100000 - 0x1000 | 7,
                        )
                    )
            struct.pack_into("<1024I", ram, table, *words)
        words = [TABLE | 7, TABLE_B | 7]
        for _ in range(1022):
            words.append(0)
        for _ in range(r.randrange(20)):
            words[r.randrange(1024)] = r.choice(
                (
                    DIRECTORY | 7,
                    TABLE | 7,
                    0x87,
                    0x83,
                    0xC00087,
                    r.randrange(1 << 32),
                    MEMORY | 7,
                    0xFFFFF007,
                    0xA0007,
                )
            )
        if wild == 0.2:
            words[0] = r.choice((words[0], 0x87, TABLE | 3, TABLE | 5))
        struct.pack_into("<1024I", ram, DIRECTORY, *words)

    def place(self, vm: VirtualMachine) -> None:
        """Put the stream and all around it into a machine that was just reset."""
        r, ram, v = self.random, vm.ram, vm.vcpu
        gdt = list(DESCRIPTORS)
        if r.random() < 0.4:
            for _ in range(6):
                gdt[r.randrange(3, len(gdt))] = r.choice(
                    (
                        r.randbytes(8),
                        descriptor(
                            self.address() & 0xFFFFFFFF,
                            r.randrange(1 << 20),
                            r.randrange(256),
                            r.randrange(16),
                        ),
                        gate(
                            self.selector(),
                            self.address() & 0xFFFFFFFF,
                            r.randrange(16),
                            r.randrange(4),
                            1,
                            r.randrange(32),
                        ),
                    )
                )
        table = b"".join(gdt)
        ram[GDT : GDT + len(table)] = table
        ram[LDT : LDT + 64] = b"".join(r.sample(gdt, 8))
        ram[IDT : IDT + 2048] = self.idt()
        ram[TSS : TSS + 0x300] = self.tss(0x30)
        ram[TSS_B : TSS_B + 0x300] = self.tss(0x28)
        handlers = self.handlers()
        ram[HANDLERS : HANDLERS + len(handlers)] = handlers
        self.tables(ram)
        code = self.code()
        mode = r.choice(("kernel", "kernel", "user", "user", "v86", "kernel16"))
        at = r.choice((CODE, CODE, CODE + 0x1000 - r.randrange(1, 40)))
        if mode == "user":
            at += USER_CODE - CODE
        ram[at : at + len(code)] = code
        v.gdt_base, v.gdt_limit = GDT, r.choice((len(table) - 1, len(table) - 1, 0xFFFF))
        v.idt_base, v.idt_limit = IDT, r.choice((2047, 2047, 2047, 255))
        v.tr = Hidden(0x28, TSS, 0x2FF, 0x8B00)
        if r.random() < 0.3:
            v.ldtr = Hidden(0x38, LDT, 0x3F, 0x8200)
        if r.random() < 0.03:
            v.idt_base = self.address() & 0xFFFFFFFF
        if r.random() < 0.02:
            v.gdt_base = self.address() & 0xFFFFFFFF
        if r.random() < 0.02:
            v.tr = Hidden(0x28, self.address() & 0xFFFFFFFF, r.choice((0x67, 0x2FF, 0x20)), 0x8B00)
        cr0 = 0x11 | r.choice((0, 0x10000)) | r.choice((0, 0, 0, 8, 4, 2, 14)) | r.choice((0, 0x20))
        if r.random() < 0.7:
            cr0 |= 0x80000000
        cr3 = DIRECTORY if r.random() < 0.98 else self.address() & 0xFFFFFFFF
        v.set_control(cr0, cr3, r.choice((0, 0x10, 0x610, 0x61C)))
        flags = (
            2
            | r.choice((0, 0x200))
            | r.choice((0, 0, 0, 0, 0x100))
            | r.choice((0, 0x400, 0x4000, 0x40000, 0x8D5))
            | r.choice((0, 0, 0x3000, 0x1000))
        )
        general = [self.value() & 0xFFFFFFFF for _ in range(8)]
        general[4] = r.choice((KERNEL_STACK - 0x100,) * 12 + (0, 2, 0x1000, self.address() & 0xFFFFFFFF))
        for n in range(8):
            vm.cpu.set_general(n, general[n])
        if mode == "v86":
            v.cpl = 3
            v.eflags = flags | 0x20000
            for n in range(6):
                selector = at >> 4 if n == 1 else r.choice((0, DATA >> 4, r.randrange(1 << 16)))
                vm.cpu.set_segment(n, selector, selector << 4, 0xFFFF, 0xFB00 if n == 1 else 0xF300)
            vm.cpu.set_eip(at & 15)
        else:
            v.cpl = 3 if mode == "user" else 0
            v.eflags = flags
            code_segment, data_segment = {
                "kernel": (0x08, 0x10),
                "user": (0x1B, 0x23),
                "kernel16": (0x40, 0x48),
            }[mode]
            for n in range(6):
                selector = code_segment if n == 1 else data_segment
                low, high = struct.unpack("<II", DESCRIPTORS[selector >> 3])
                if mode == "kernel16" and n == 1:
                    v.set_segment(1, 0x40, at & ~15, 0xFFFF, high)
                else:
                    v.load_segment(n, selector, low, high)
            vm.cpu.set_eip(at & 15 if mode == "kernel16" else at)
        if r.random() < 0.4:
            # A timer that ticks every 30 to 300 instructions, and an 8259 that lets it through as vector 32.
            for port, value in (
                (0x20, 0x11),
                (0x21, 0x20),
                (0x21, 4),
                (0x21, 1),
                (0x21, 0xFE),
                (0x43, 0x34),
                (0x40, r.randrange(1, 5)),
                (0x40, 0),
            ):
                vm.clock.update()
                vm.devices.write_port(port, 1, value)
