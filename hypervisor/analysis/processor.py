"""A bare CPU for one instruction: no monitor, no paging, a GDT with segments of every ring.

It is in SVM guest mode only because VMRUN is the way to begin in any ring (AMD APM 2, 15.5); with nothing
intercepted, what happens is what an operating system on that CPU would see. Each experiment has an engine of
its own, since Unicorn survives one exception only (see ext/cpu.pyx).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import unicorn
from unicorn import x86_const

SIZE = 1 << 20
VMCB, HSAVE, PERMISSIONS, ENTRY, CODE, STACK, DATA = 0x1000, 0x2000, 0x4000, 0x7000, 0x8000, 0xA000, 0xB000
SEGMENTS = {0: (0x08, 0x10), 1: (0x19, 0x21), 3: (0x2B, 0x33)}
"""Ring -> selectors of its code and its data."""
DATA_3 = 0x33
"""The data segments, whatever the ring; only CS and SS are the ring's own."""
TSS, OTHER_TSS, LDT, OTHER_LDT, CONFORMING = 0x38, 0x40, 0x48, 0x50, 0x58
CR0 = 0x31
TSD = 4
IF = 0x200
EVENT_BASE = 0x100
"""The hook's numbers below are vectors; from here on, SVM's exit codes."""
UNDEFINED, BREAKPOINT = 6, 3
INT = 0xCD
MARK = b"\xcc"
"""INT3: the instruction ran to its end."""
ALL_INSTRUCTIONS = 0x1FFFFFC0 | 0xFFF << 32
"""VMCB, offset 0x0c: IDTR reads (bit 6) to MSRs (28), VMRUN (32) to MWAIT (43)."""
SOFTWARE_INTERRUPT = EVENT_BASE + 0x75
VMRUN_ALONE = 1 << 32
"""The one intercept that VMRUN insists on."""


@dataclass(frozen=True)
class Resources:
    """The machine's own state that a guest must neither see nor change: two different ones show who looks at it."""

    gdt: int
    idt: int
    local: int
    task: int
    cr0: int
    eflags: int


FIRST = Resources(gdt=0xC000, idt=0xD000, local=LDT, task=TSS, cr0=CR0, eflags=2)
SECOND = Resources(gdt=0xC800, idt=0xD800, local=OTHER_LDT, task=OTHER_TSS, cr0=CR0 | 2, eflags=2 | IF)


@dataclass(frozen=True)
class Outcome:
    """What came of an instruction."""

    event: int | None
    """Vector, or SVM exit code + EVENT_BASE, that it ended with; None if it ran to its end."""
    visible: tuple[object, ...]
    """What a program sees afterwards: general registers, flags, selectors that were loaded, data and stack."""
    system: tuple[object, ...]
    """What only the system should see or change."""

    @property
    def trapped(self) -> bool:
        """Did it end with an exception (and not with an INT n of its own)?"""
        return self.event is not None and self.event < 32


def descriptor(base: int, limit: int, access: int, flags: int) -> bytes:
    return struct.pack(
        "<HHBBBB",
        limit & 0xFFFF,
        base & 0xFFFF,
        base >> 16 & 255,
        access,
        limit >> 16 | flags << 4,
        base >> 24,
    )


GDT = b"".join(
    [bytes(8)]
    + [descriptor(0, 0xFFFFF, 0x93 | ring << 5 | kind, 0xC) for ring in (0, 1, 3) for kind in (8, 0)]
    + [descriptor(0xE000, 0x67, 0x89, 0), descriptor(0xE100, 0x67, 0x89, 0)]
    + [descriptor(0xE200, 7, 0x82, 0), descriptor(0xE300, 7, 0x82, 0)]
    + [descriptor(0, 0xFFFFF, 0x9F, 0xC)]
)


def state_of(resources: Resources, ring: int, intercepting: bool, eax: int) -> bytes:
    """The VMCB: a state description for one instruction in a ring (AMD APM 2, appendix B)."""
    vmcb = bytearray(4096)

    def put(form: str, offset: int, *values: int) -> None:
        struct.pack_into("<" + form, vmcb, offset, *values)

    def segment(offset: int, selector: int, attributes: int, limit: int, base: int) -> None:
        put("HHIQ", offset, selector, attributes, limit, base)

    if intercepting:
        put("IIQ", 0, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    put("Q", 0x0C, ALL_INSTRUCTIONS if intercepting else VMRUN_ALONE)
    put("QQ", 0x40, PERMISSIONS, PERMISSIONS)
    code, stack = SEGMENTS[ring]
    for index, selector in enumerate((DATA_3, code, stack, DATA_3, DATA_3, DATA_3)):
        dpl = ring if index in (1, 2) else 3
        segment(0x400 + 16 * index, selector, (0xC9B if index == 1 else 0xC93) | dpl << 5, 0xFFFFFFFF, 0)
    segment(0x460, 0, 0, len(GDT) - 1, resources.gdt)
    segment(0x470, resources.local, 0x82, 7, 0xE200)
    segment(0x480, 0, 0, 0x7FF, resources.idt)
    segment(0x490, resources.task, 0x89, 0x67, 0xE000)
    vmcb[0x4CB] = ring
    put("Q", 0x4D0, 1 << 12)
    put("Q", 0x548, TSD)
    put("Q", 0x558, resources.cr0)
    put("QQQ", 0x568, 0x400, resources.eflags, CODE)
    put("Q", 0x5D8, STACK)
    put("Q", 0x5F8, eax)
    return bytes(vmcb)


def execute(
    code: bytes,
    *,
    ring: int,
    resources: Resources = FIRST,
    intercepting: bool = False,
    stack: tuple[int, ...] = (),
    eax: int = 0,
    ecx: int = 0,
) -> Outcome:
    """Run one instruction, with these words on the stack, and these values in EAX and ECX."""
    cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    cpu.ctl_set_cpu_model(x86_const.UC_CPU_X86_QEMU64)
    cpu.mem_map(0, SIZE)
    for at, data in (
        (VMCB, state_of(resources, ring, intercepting, eax)),
        (PERMISSIONS, b"\xff" * 0x3000),
        (ENTRY, b"\x0f\x01\xda\x0f\x01\xd8"),  # VMLOAD, VMRUN
        (CODE, code + MARK * 64),
        (resources.gdt, GDT),
        (DATA, struct.pack("<HI", 0x7F, 0xC000).ljust(16, b"\0")),
        (STACK, struct.pack(f"<{len(stack)}I", *stack)),
    ):
        cpu.mem_write(at, data)
    cpu.reg_write(x86_const.UC_X86_REG_CR0, 0x11)
    cpu.reg_write(x86_const.UC_X86_REG_MSR, (0xC0000080, 1 << 12))
    cpu.reg_write(x86_const.UC_X86_REG_MSR, (0xC0010117, HSAVE))
    cpu.reg_write(x86_const.UC_X86_REG_EAX, VMCB)
    cpu.reg_write(x86_const.UC_X86_REG_ECX, ecx)
    events: list[int] = []

    def on_event(engine: object, number: int, data: object) -> None:
        events.append(number)
        cpu.emu_stop()

    cpu.hook_add(unicorn.UC_HOOK_INTR, on_event)
    try:
        cpu.emu_start(ENTRY, SIZE)
    except unicorn.UcError as error:
        if error.errno != unicorn.UC_ERR_INSN_INVALID:
            raise
        events.append(UNDEFINED)
    return outcome(cpu, code, events, ring)


def outcome(cpu: unicorn.Uc, code: bytes, events: list[int], ring: int) -> Outcome:
    def register(name: str) -> int:
        return int(cpu.reg_read(getattr(x86_const, f"UC_X86_REG_{name}")))

    event = events[0] if events else None
    if event in (BREAKPOINT, SOFTWARE_INTERRUPT) and code[0] != INT:
        event = None
    selectors = tuple(register(name) for name in ("CS", "SS", "DS"))
    before = (*SEGMENTS[ring], DATA_3)
    # INT n stores CS, as CALL does, where the handler finds it.
    loaded = tuple(
        now if now != old or (event is not None and 32 <= event < EVENT_BASE) else None
        for now, old in zip(selectors, before, strict=True)
    )
    general = tuple(register(name) for name in ("ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI"))
    memory = bytes(cpu.mem_read(DATA, 16)), bytes(cpu.mem_read(STACK - 16, 48))
    flags = register("EFLAGS")
    system = tuple(register(name) for name in ("CR0", "CR3", "CR4", "DR7"))
    tables = tuple(
        tuple(cpu.reg_read(getattr(x86_const, f"UC_X86_REG_{name}")))
        for name in ("GDTR", "IDTR", "LDTR", "TR")
    )
    return Outcome(
        event,
        (register("EAX"), general, flags & 0x8D5, loaded, memory),
        (system, tables, flags & 0x3200),
    )
