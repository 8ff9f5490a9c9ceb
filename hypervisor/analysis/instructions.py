"""Popek and Goldberg's classes of instructions, from experiment ("Formal requirements for virtualizable third
generation architectures", 1974).

*Privileged*: traps outside of ring 0, and not there. *Sensitive*: what it does or tells depends on the ring, or
on resources that are the system's. Their theorem: a machine can be virtualized by trapping if every sensitive
instruction is privileged. Robin and Irvine ("Analysis of the Intel Pentium's Ability to Support a Secure Virtual
Machine Monitor", 2000) found seventeen of x86 that are not.

Neither class is written down here. Each instruction is executed in every ring, on two machines that differ in
their resources; what traps is privileged, and what comes out differently is sensitive.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from hypervisor.analysis.processor import (
    CODE,
    CONFORMING,
    DATA,
    DATA_3,
    EVENT_BASE,
    FIRST,
    LDT,
    OTHER_TSS,
    SECOND,
    Outcome,
    Resources,
    execute,
)
from hypervisor.monitor.loop import EXIT_NAMES

RINGS = (0, 1, 3)

AT_DATA = struct.pack("<I", DATA)
END = CODE + 16
"""Where far transfers lead: to the marks behind the instruction."""
DATA_0, OUTER_STACK = 0x10, 0xA100
IMAGE = 0x202
"""EFLAGS with IF."""
MORE_EXITS = {
    EVENT_BASE + 0x6A: "LIDT",
    EVENT_BASE + 0x70: "PUSHF",
    EVENT_BASE + 0x71: "POPF",
    EVENT_BASE + 0x7B: "port access",
}


@dataclass(frozen=True)
class Variant:
    """An instruction with its operands: words on the stack, EAX and ECX."""

    code: bytes
    stack: tuple[int, ...] = ()
    eax: int = 0
    ecx: int = 0

    def run(self, ring: int, resources: Resources = FIRST, *, intercepting: bool = False) -> Outcome:
        return execute(
            self.code,
            ring=ring,
            resources=resources,
            intercepting=intercepting,
            stack=self.stack,
            eax=self.eax,
            ecx=self.ecx,
        )


@dataclass(frozen=True)
class Instruction:
    name: str
    """As Robin and Irvine name it, where they do."""
    form: str
    """What was executed."""
    variants: tuple[Variant, ...]
    device: bool = False
    """Does it act on a device, which is a resource that these experiments do not have?"""


def instruction(name: str, form: str, *variants: Variant | bytes, device: bool = False) -> Instruction:
    return Instruction(
        name, form, tuple(v if isinstance(v, Variant) else Variant(v) for v in variants), device
    )


def far(opcode: int) -> bytes:
    return bytes((opcode,)) + struct.pack("<IH", END, CONFORMING)


INSTRUCTIONS = (
    instruction("PUSHF", "pushfd", b"\x9c"),
    instruction("POPF", "popfd, with IF set in the image", Variant(b"\x9d", (IMAGE,))),
    instruction("SGDT", "sgdt [m]", b"\x0f\x01\x05" + AT_DATA),
    instruction("SIDT", "sidt [m]", b"\x0f\x01\x0d" + AT_DATA),
    instruction("SLDT", "sldt ecx", b"\x0f\x00\xc1"),
    instruction("STR", "str ecx", b"\x0f\x00\xc9"),
    instruction("SMSW", "smsw ecx", b"\x0f\x01\xe1"),
    instruction("LAR", "lar edx, ecx, of ring 0's data", Variant(b"\x0f\x02\xd1", ecx=DATA_0)),
    instruction("LSL", "lsl edx, ecx, of ring 0's data", Variant(b"\x0f\x03\xd1", ecx=DATA_0)),
    instruction("VERR", "verr cx, of ring 0's data", Variant(b"\x0f\x00\xe1", ecx=DATA_0)),
    instruction("VERW", "verw cx, of ring 0's data", Variant(b"\x0f\x00\xe9", ecx=DATA_0)),
    instruction("MOV", "mov edx, cs", b"\x8c\xca"),
    instruction("PUSH", "push cs", b"\x0e"),
    instruction(
        "POP", "pop ds, of ring 3's and ring 0's data", *(Variant(b"\x1f", (s,)) for s in (DATA_3, DATA_0))
    ),
    instruction("CALL", "call far, to conforming code", far(0x9A)),
    instruction("JMP", "jmp far, to conforming code", far(0xEA)),
    instruction("RET", "retf, to ring 3", Variant(b"\xcb", (END, CONFORMING | 3, OUTER_STACK, DATA_3))),
    instruction("INT n", "int 0x40", b"\xcd\x40"),
    instruction(
        "IRET",
        "iret, to ring 3, with IF",
        Variant(b"\xcf", (END, CONFORMING | 3, IMAGE, OUTER_STACK, DATA_3)),
    ),
    instruction("CLI", "cli", b"\xfa"),
    instruction("STI", "sti", b"\xfb"),
    instruction("HLT", "hlt", b"\xf4"),
    instruction("LGDT", "lgdt [m]", b"\x0f\x01\x15" + AT_DATA),
    instruction("LIDT", "lidt [m]", b"\x0f\x01\x1d" + AT_DATA),
    instruction("LLDT", "lldt ax", Variant(b"\x0f\x00\xd0", eax=LDT)),
    instruction("LTR", "ltr ax", Variant(b"\x0f\x00\xd8", eax=OTHER_TSS)),
    instruction("LMSW", "lmsw ax", Variant(b"\x0f\x01\xf0", eax=0x33)),
    instruction("CLTS", "clts", b"\x0f\x06"),
    instruction("MOV from CR", "mov ecx, cr0", b"\x0f\x20\xc1"),
    instruction("MOV to CR", "mov cr3, eax", Variant(b"\x0f\x22\xd8", eax=0x5000)),
    instruction("MOV from DR", "mov ecx, dr7", b"\x0f\x21\xf9"),
    instruction("MOV to DR", "mov dr7, eax", Variant(b"\x0f\x23\xf8", eax=0x400)),
    instruction("INVLPG", "invlpg [m]", b"\x0f\x01\x3d" + AT_DATA),
    instruction("INVD", "invd", b"\x0f\x08"),
    instruction("WBINVD", "wbinvd", b"\x0f\x09"),
    instruction("RDMSR", "rdmsr of SYSENTER_CS", Variant(b"\x0f\x32", ecx=0x174)),
    instruction("WRMSR", "wrmsr to SYSENTER_CS", Variant(b"\x0f\x30", ecx=0x174)),
    instruction("RDTSC", "rdtsc, with CR4.TSD", b"\x0f\x31"),
    instruction("IN", "in al, 0x80", b"\xe4\x80", device=True),
    instruction("OUT", "out 0x80, al", b"\xe6\x80", device=True),
    instruction("ADD", "add ecx, eax", b"\x01\xc1"),
    instruction("MOV of a register", "mov ecx, eax", b"\x89\xc1"),
)


@dataclass(frozen=True)
class Finding:
    """What came of one instruction."""

    name: str
    form: str
    rings: dict[int, str]
    """Ring -> what happened there, with nothing intercepted."""
    intercept: str
    """The exit that SVM makes of it in ring 0, or ``none``."""
    privileged: bool
    sensitive: bool
    verdict: str
    """``traps``, ``leaks``, ``silently wrong``, both of these, or ``innocuous``."""


def event_name(event: int | None) -> str:
    if event is None:
        return "runs"
    if 32 <= event < EVENT_BASE:
        return f"vector {event:#x}"
    return EXIT_NAMES.get(event + 0x140 if event < EVENT_BASE else event, f"exit {event:#x}")


def analyze(instructions: tuple[Instruction, ...] = INSTRUCTIONS) -> Iterator[Finding]:
    """Execute each instruction, six times a variant."""
    for one in instructions:
        first = {ring: [variant.run(ring) for variant in one.variants] for ring in RINGS}
        second = {ring: [variant.run(ring, SECOND) for variant in one.variants] for ring in RINGS}
        events = [variant.run(0, intercepting=True).event for variant in one.variants]
        exits = [event for event in events if event is not None and event >= EVENT_BASE]
        yield judge(one, first, second, exits)


def judge(
    one: Instruction,
    first: dict[int, list[Outcome]],
    second: dict[int, list[Outcome]],
    exits: list[int],
) -> Finding:
    wrong, leaks = set(), set()
    for ring in RINGS:
        for ours, others, kernels in zip(first[ring], second[ring], first[0], strict=True):
            if not ours.trapped and ours.visible != others.visible:
                leaks.add(ring)
            if not ours.trapped and (ours.visible, ours.system) != (kernels.visible, kernels.system):
                wrong.add(ring)
    privileged = all(outcome.trapped for ring in (1, 3) for outcome in first[ring]) and not any(
        outcome.trapped for outcome in first[0]
    )
    by_ring = any(
        (ours.event, ours.visible, ours.system) != (kernels.event, kernels.visible, kernels.system)
        for ring in (1, 3)
        for ours, kernels in zip(first[ring], first[0], strict=True)
    )
    outside = [name for name, where in (("leaks", leaks), ("silently wrong", wrong)) if where & {1, 3}]
    sensitive = by_ring or bool(leaks) or one.device
    verdict = (
        "traps" if privileged else " and ".join(outside) or ("silently wrong" if sensitive else "innocuous")
    )
    rings = {
        ring: " or ".join(dict.fromkeys(event_name(outcome.event) for outcome in first[ring]))
        + (" (leaks)" if ring in leaks and ring else "")
        + (" (differs)" if ring in wrong else "")
        for ring in RINGS
    }
    intercept = event_name(exits[0]) if exits else "none"
    return Finding(
        one.name,
        one.form,
        rings,
        MORE_EXITS.get(exits[0], intercept) if exits else "none",
        privileged,
        sensitive,
        verdict,
    )
