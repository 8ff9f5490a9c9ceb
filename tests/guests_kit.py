"""A bare machine for tests that need one odd thing: descriptor tables, page tables and stacks are ready made.

Low memory holds what a kernel would have set up; ``Machine`` puts assembled snippets there, runs them and tells
what happened. Every vector has a handler of one HLT, so that an event ends the run and its frame can be read.
"""

from __future__ import annotations

import struct

from hypervisor.boot.entry import Entry
from hypervisor.machine import VirtualMachine
from hypervisor.state.model import MachineConfig

MEMORY = 2 << 20
GDT, IDT, TSS, TSS_B, LDT, HANDLERS, DIRECTORY, TABLE, TABLE_B = (
    0x1000,
    0x1800,
    0x2000,
    0x2400,
    0x2800,
    0x3000,
    0x4000,
    0x5000,
    0x6000,
)
KERNEL_STACK, CODE, USER_CODE, DATA = 0x9000, 0x10000, 0x20000, 0x30000


def descriptor(base: int, limit: int, access: int, flags: int) -> bytes:
    """A segment descriptor: ``access`` is its byte 5, ``flags`` the upper half of byte 6."""
    return struct.pack(
        "<HHBBBB",
        limit & 0xFFFF,
        base & 0xFFFF,
        base >> 16 & 255,
        access,
        limit >> 16 & 15 | flags << 4,
        base >> 24,
    )


def gate(selector: int, offset: int, kind: int, dpl: int, present: int = 1, parameters: int = 0) -> bytes:
    return struct.pack(
        "<HHBBH", offset & 0xFFFF, selector, parameters, present << 7 | dpl << 5 | kind, offset >> 16
    )


DESCRIPTORS = [
    bytes(8),
    descriptor(0, 0xFFFFF, 0x9B, 0xC),  # 08 code, ring 0
    descriptor(0, 0xFFFFF, 0x93, 0xC),  # 10 data, ring 0
    descriptor(0, 0xFFFFF, 0xFB, 0xC),  # 18 code, ring 3
    descriptor(0, 0xFFFFF, 0xF3, 0xC),  # 20 data, ring 3
    descriptor(TSS, 0x2FF, 0x89, 0),  # 28 TSS
    descriptor(TSS_B, 0x2FF, 0x89, 0),  # 30 TSS
    descriptor(LDT, 0x3F, 0x82, 0),  # 38 LDT
    descriptor(0, 0xFFFF, 0x9A, 0x0),  # 40 code, 16 bits
    descriptor(0, 0xFFFF, 0x92, 0x0),  # 48 data, 16 bits
    descriptor(0, 0xFFFFF, 0x9E, 0xC),  # 50 conforming code
    descriptor(0, 0xFFFFF, 0xBB, 0xC),  # 58 code, ring 1
    descriptor(0, 0xFFFFF, 0xB3, 0xC),  # 60 data, ring 1
    descriptor(CODE, 0xFFFF, 0x9B, 0x4),  # 68 code with a base
    descriptor(DATA, 0xFFFF, 0xF3, 0x4),  # 70 data with a base
    gate(0x08, HANDLERS, 12, 3),  # 78 call gate
    gate(0x08, HANDLERS, 12, 3, parameters=3),  # 80 call gate with parameters
    gate(0x08, HANDLERS, 4, 3, parameters=2),  # 88 16-bit call gate
    gate(0x30, 0, 5, 3),  # 90 task gate
    gate(0x08, HANDLERS, 14, 3),  # 98 interrupt gate: not for GDTs
    descriptor(TSS_B, 0x2B, 0x81, 0),  # A0 16-bit TSS
    descriptor(0, 0xFFFFF, 0x97, 0xC),  # A8 expand-down data
    descriptor(0, 0xFFFFF, 0xD9, 0xC),  # B0 unreadable code, ring 2
    descriptor(0, 0xFFFFF, 0x13, 0xC),  # B8 absent data
    descriptor(0, 0xFFFFF, 0xFA, 0x0),  # C0 code, ring 3, 16 bits
    gate(0x58, HANDLERS, 12, 3),  # C8 call gate to ring 1
    gate(0x50, HANDLERS, 12, 3),  # D0 call gate to conforming code
    descriptor(TSS, 0x2FF, 0x8B, 0),  # D8 busy TSS
    descriptor(0, 0xFFFFF, 0x9B, 0xE),  # E0 code with L set
]
SELECTORS = range(0, 8 * len(DESCRIPTORS), 8)

POINTERS = 0xF00
"""What LGDT and LIDT load."""
USER_STACK = 0x8000
BITMAP = 0x68
PRELUDE = 26
"""Bytes of code before ``kernel`` begins."""
ENOUGH = 20_000
"""Instructions within which every little guest is done."""


def machine(
    kernel: bytes = b"",
    user: bytes | None = None,
    *,
    iopl: int = 0,
    clock: str = "exact",
    technique: str = "trap",
) -> VirtualMachine:
    """A machine about to load its tables, and then to run ``kernel`` in ring 0 or ``user`` in ring 3."""
    vm = VirtualMachine.create(MachineConfig(memory=MEMORY, technique=technique, clock=clock))
    vm.enter_kernel(Entry(CODE))
    put(vm, GDT, b"".join(DESCRIPTORS))
    put(vm, IDT, b"".join(gate(8, HANDLERS + 4 * n, 14, 3) for n in range(256)))
    put(vm, HANDLERS, b"\xf4\x90\x90\x90" * 256)
    put(vm, TSS + 4, struct.pack("<II", KERNEL_STACK, 0x10))
    put(vm, TSS + 0x66, struct.pack("<H", BITMAP))
    put(vm, TSS + BITMAP, b"\xff" * 0x200)
    put(vm, POINTERS, struct.pack("<HI", 8 * len(DESCRIPTORS) - 1, GDT))
    put(vm, POINTERS + 8, struct.pack("<HI", 0x7FF, IDT))
    start = b"\x0f\x01\x15" + struct.pack("<I", POINTERS) + b"\x0f\x01\x1d" + struct.pack("<I", POINTERS + 8)
    start += b"\x66\xb8\x28\x00\x0f\x00\xd8\xbc" + struct.pack("<I", KERNEL_STACK)
    if user is not None:
        put(vm, USER_CODE, user)
        for value in (0x23, USER_STACK, 2 | iopl << 12, 0x1B, USER_CODE):
            start += b"\x68" + struct.pack("<I", value)
        kernel = b"\xcf"
    put(vm, CODE, start + kernel)
    return vm


def put(vm: VirtualMachine, address: int, data: bytes) -> None:
    vm.ram[address : address + len(data)] = data


def event(vm: VirtualMachine) -> tuple[int, int]:
    """Run until a handler halts: its vector, and what is on top of its stack."""
    stop = vm.run(instructions=ENOUGH)
    assert stop.reason == "halted", stop
    registers = vm.registers()
    vector, rest = divmod(registers["eip"] - 1 - HANDLERS, 4)
    assert rest == 0
    assert registers["cpl"] == 0
    return vector, int.from_bytes(vm.read("gva", registers["esp"], 4), "little")


def load(value: int) -> bytes:
    """mov eax, value"""
    return b"\xb8" + struct.pack("<I", value)
