"""Guests that do the worst that can be done on purpose; hostile_streams.py does it by chance.

Whatever happens, a run ends with a Stop, and what is not the guest's own stays as it was.
"""

from __future__ import annotations

import struct
import threading

import pytest
from guests_kit import (
    BITMAP,
    CODE,
    DATA,
    DIRECTORY,
    ENOUGH,
    GDT,
    HANDLERS,
    IDT,
    MEMORY,
    POINTERS,
    PRELUDE,
    SELECTORS,
    TABLE,
    TSS,
    USER_CODE,
    USER_STACK,
    descriptor,
    event,
    gate,
    load,
    machine,
    put,
)

REASONS = {"limit", "halted", "triple-fault", "idle", "reset", "error", "exit"}
NOWHERE = 0xF0000000


def test_a_triple_fault_is_reported() -> None:
    with machine(b"\x0f\x01\x1d" + struct.pack("<I", 0x100) + b"\x0f\x0b") as vm:
        assert vm.run(instructions=ENOUGH).reason == "triple-fault"


@pytest.mark.parametrize("where", [NOWHERE, 0xFFFFFFF0, GDT, IDT, TSS, POINTERS, MEMORY - 4, 0xA0000])
@pytest.mark.parametrize("table", ["gdt", "idt", "tss", "cr3"])
def test_tables_may_point_anywhere(table: str, where: int) -> None:
    """Outside RAM, at themselves, at each other; then everything is used: gates, stacks, segments, pages."""
    user = b"\xcd\x80\x0f\x0b"
    use = b"\xcd\x80\x8e\xd8\x0f\x0b"
    if table in ("gdt", "idt"):
        code = b"\x0f\x01" + (b"\x15" if table == "gdt" else b"\x1d") + struct.pack("<I", POINTERS + 16) + use
    elif table == "cr3":
        code = load(where) + b"\x0f\x22\xd8\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0" + use
    else:
        code = b""
    with machine(code, user if table == "tss" else None) as vm:
        put(vm, POINTERS + 16, struct.pack("<HI", 0xFFFF, where))
        if table == "tss":
            put(vm, GDT + 0x28, descriptor(where, 0x2FF, 0x89, 0))
        assert vm.run(instructions=ENOUGH).reason in REASONS


@pytest.mark.parametrize("large", [False, True])
def test_page_tables_reach_only_what_is_the_guests(large: bool) -> None:
    """A page directory that maps itself, holes, and every frame number that could be the monitor's."""
    paging = load(0x10) + b"\x0f\x22\xe0" if large else b""
    paging += load(DIRECTORY) + b"\x0f\x22\xd8\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0"
    # mov edi,0x400000; mov ecx,0x200000; mov eax,-1; rep stosd; hlt
    fill = b"\xbf\x00\x00\x40\x00\xb9\x00\x08\x00\x00\xb8\xff\xff\xff\xff\xfc\xf3\xab\x81\xc7\x00\xe0\x0f\x00"
    fill += b"\x81\xff\x00\x00\x00\x40\x72\xe6\xf4"
    with machine(paging + fill) as vm, machine() as other:
        entries = [
            TABLE | 7,
            *((n << 22 | (0x87 if large else 7)) & 0xFFFFFFFF for n in range(1, 1023)),
            DIRECTORY | 7,
        ]
        put(vm, DIRECTORY, struct.pack("<1024I", *entries))
        put(vm, TABLE, struct.pack("<1024I", *(n << 12 | 7 for n in range(1024))))
        monitor = bytes(vm.memory.monitor_view()[0x4000:0x6000])
        ours = other.digest()
        assert vm.run(instructions=3_000_000).reason in REASONS
        assert bytes(vm.memory.monitor_view()[0x4000:0x6000]) == monitor
        assert other.digest() == ours


PRIVILEGED = {
    "cli": "fa",
    "sti": "fb",
    "hlt": "f4",
    "mov eax,cr0": "0f20c0",
    "mov cr0,eax": "0f22c0",
    "mov cr3,eax": "0f22d8",
    "mov eax,dr7": "0f21f8",
    "mov dr7,eax": "0f23f8",
    "lgdt": "0f0115000f0000",
    "lidt": "0f011d000f0000",
    "lldt ax": "0f00d0",
    "ltr ax": "0f00d8",
    "lmsw ax": "0f01f0",
    "clts": "0f06",
    "invlpg": "0f013d00000000",
    "invd": "0f08",
    "wbinvd": "0f09",
    "rdmsr": "0f32",
    "wrmsr": "0f30",
    "rdpmc": "0f33",
    "in al,dx": "ec",
    "in eax,0x60": "e560",
    "out dx,al": "ee",
    "out 0xf4,eax": "e7f4",
    "insb": "6c",
    "rep outsd": "f36f",
}


@pytest.mark.parametrize("name", PRIVILEGED)
def test_ring_3_gets_a_general_protection_fault(name: str) -> None:
    with machine(user=bytes.fromhex(PRIVILEGED[name])) as vm:
        assert event(vm) == (13, 0)


@pytest.mark.parametrize("code", ["0f34", "0f05", "0faa", "0f01d8", "0f01d9", "0f0b"])
def test_what_this_processor_has_not_is_undefined(code: str) -> None:
    """SYSENTER, SYSCALL, RSM, VMRUN, VMMCALL, UD2."""
    with machine(user=bytes.fromhex(code)) as vm:
        assert event(vm) == (6, USER_CODE)


def test_ports_are_opened_by_iopl_and_by_the_bitmap() -> None:
    code = bytes.fromhex("66ba8000 ee ec cd80")  # mov dx,0x80; out dx,al; in al,dx; int 0x80
    with machine(user=code, iopl=3) as vm:
        assert event(vm)[0] == 0x80
    with machine(user=code) as vm:
        put(vm, TSS + BITMAP + 0x10, b"\xfe")
        assert event(vm)[0] == 0x80


def test_a_call_gate_leads_to_the_inner_stack() -> None:
    with machine(user=b"\x9a\x00\x00\x00\x00\x7b\x00") as vm:
        assert event(vm) == (0, USER_CODE + 7)
        frame = struct.unpack("<4I", vm.read("gva", vm.registers()["esp"], 16))
        assert frame == (USER_CODE + 7, 0x1B, USER_STACK, 0x23)


@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize("opcode", ["9a", "ea"])
@pytest.mark.parametrize("selector", [*SELECTORS, 0x100, 0xFFF8, 0x3C])
def test_far_transfers_through_anything(selector: int, opcode: str, ring: int) -> None:
    code = bytes.fromhex(opcode) + struct.pack("<IH", HANDLERS, selector | ring) + b"\xf4"
    with machine(*((b"", code) if ring else (code,))) as vm:
        assert vm.run(instructions=ENOUGH).reason in REASONS


def chopped(code: bytes, count: int) -> None:
    """Straight to ``count`` and by single instructions: the same."""
    with machine(code) as straight, machine(code) as stepped:
        straight.run(until=count)
        for n in range(1, count + 1):
            stepped.run(until=n)
        assert straight.digest() == stepped.digest()


def test_code_that_overwrites_its_own_block_runs_as_written() -> None:
    # 1: inc byte [imm of the next instruction]; mov eax,imm; add ebx,eax; cmp ebx,200; jb 1b; hlt
    start = CODE + PRELUDE
    body = b"\xfe\x05" + struct.pack("<I", start + 7) + b"\xb8\x00\x00\x00\x00\x01\xc3"
    body += b"\x81\xfb\xc8\x00\x00\x00\x72\xeb\xf4"
    with machine(body) as vm:
        assert vm.run(instructions=ENOUGH).reason == "halted"
        registers = vm.registers()
        assert registers["eax"] == 20
        assert registers["ebx"] == 210
    chopped(body, 110)


def test_rep_stos_over_the_running_code() -> None:
    # mov edi,CODE; mov ecx,64; mov al,0x90; rep stosb; then nops up to a hlt
    body = (
        b"\xbf"
        + struct.pack("<I", CODE)
        + b"\xb9\x40\x00\x00\x00\xb0\x90\xfc\xf3\xaa\xf4"
        + b"\x90" * 80
        + b"\xf4"
    )
    with machine(body) as vm:
        assert vm.run(instructions=ENOUGH).reason == "halted"
    chopped(body, 90)


@pytest.mark.parametrize("clock", ["exact", "wall"])
def test_an_endless_loop_with_interrupts_off_can_be_stopped(clock: str) -> None:
    with machine(b"\xfa\xeb\xfe", clock=clock) as vm:
        threading.Timer(0.1, vm.request_stop).start()
        assert vm.run().reason == "stop"


@pytest.mark.parametrize("handler", ["0f0b", "cc", "f1", "a1000000f0", "cd03", "c8ffff00", "ebfe"])
def test_handlers_that_fault_for_ever_still_reach_an_instruction_limit(handler: str) -> None:
    with machine(b"\x0f\x0b") as vm:
        for n in range(256):
            put(vm, HANDLERS + 4 * n, b"\xeb\xfe")
        put(vm, DATA, bytes.fromhex(handler))
        put(vm, IDT, b"".join(gate(8, DATA, 14, 3) for _ in range(256)))
        assert vm.run(instructions=ENOUGH).reason in {"limit", "triple-fault"}


def test_the_same_bytes_as_32_bit_and_as_16_bit_code_are_counted_each_for_itself() -> None:
    """PUSH imm32 is five bytes; in a 16-bit segment it is PUSH imm16 and ADD [BX+SI], AL.

    The block begins with a port access, and returns far to itself: first to 32-bit, then to 16-bit code.
    """
    block, data = 0x8800, 0x7000
    body = b"\xbb" + struct.pack("<I", data) + b"\xea" + struct.pack("<IH", block, 8)
    pushes = b"".join(b"\x68" + struct.pack("<I", value) for value in (0x3344, 0x40, block))
    with machine(body) as straight, machine(body) as stepped:
        for vm in (straight, stepped):
            put(vm, block, b"\x90\xe6\x80" + pushes + b"\xcb")
        straight.run(until=100)
        for n in range(1, 101):
            stepped.run(until=n)
        assert straight.instructions == stepped.instructions == 100
        assert straight.digest() == stepped.digest()
