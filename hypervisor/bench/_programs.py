"""Small guests for the benchmarks, as machine code: nothing needs to be assembled to measure."""

from __future__ import annotations

import struct

from hypervisor.boot.entry import Entry
from hypervisor.machine import VirtualMachine
from hypervisor.paging.forms import DEFAULT_FORM
from hypervisor.state.model import MachineConfig

CODE = 0x100000
DATA = 0x200000
GDT, TSS, IDT = 0x1000, 0x2000, 0x3000
USER, HANDLER, KERNEL_STACK, USER_STACK = 0x110000, 0x120000, 0x80000, 0x90000
DIRECTORY, TABLE = 0x10000, 0x11000
MEMORY = 8 << 20

CLI_LOOP = bytes.fromhex("fa ebfd")
"""1: cli; jmp 1b"""
CPU_LOOP = bytes.fromhex("40 01c3 31d8 c1c003 69c06d4ec641 01d8 49 75ed")
"""1: inc eax; add ebx,eax; xor eax,ebx; rol eax,3; imul eax,eax,...; add eax,ebx; dec ecx; jnz 1b"""
MEMORY_LOOP = bytes.fromhex("8b06 0186 00100000 83c604 81e6fcff3f00 81ce00002000 49 75e6")
"""1: mov eax,[esi]; add [esi+4096],eax; add esi,4; and esi,0x3ffffc; or esi,0x200000; dec ecx; jnz 1b"""
STORE_LOOP = bytes.fromhex("8906 49 75fb")
"""1: mov [esi],eax; dec ecx; jnz 1b"""
LOAD_LOOP = bytes.fromhex("8b06 49 75fb")
"""1: mov eax,[esi]; dec ecx; jnz 1b"""
POWER_OFF = bytes.fromhex("31c0 e7f4")
"""xor eax,eax; out 0xf4,eax"""


def machine(clock: str = "exact", paging: str = DEFAULT_FORM) -> VirtualMachine:
    """A machine at CODE in flat protected mode, with nothing there yet."""
    vm = VirtualMachine.create(MachineConfig(MEMORY, "trap", clock), paging=paging)
    vm.enter_kernel(Entry(CODE))
    return vm


def place(vm: VirtualMachine, address: int, code: bytes) -> None:
    vm.ram[address : address + len(code)] = code


def loop(code: bytes, count: int) -> bytes:
    """``code`` run ``count`` times with ESI at DATA, then power off."""
    return b"\xb9" + struct.pack("<I", count) + b"\xbe" + struct.pack("<I", DATA) + code + POWER_OFF


def descriptor(base: int, limit: int, access: int, flags: int) -> bytes:
    """A segment descriptor (SDM 3A, 3.4.5)."""
    low = limit & 0xFFFF | (base & 0xFFFF) << 16
    high = base >> 16 & 0xFF | access << 8 | limit & 0xF0000 | flags << 20 | base & 0xFF000000
    return struct.pack("<II", low, high)


def system_calls(vm: VirtualMachine) -> None:
    """A user program that makes system calls for ever, and a kernel that only returns from them."""
    table = (
        bytes(8)
        + descriptor(0, 0xFFFFF, 0x9A, 0xC)
        + descriptor(0, 0xFFFFF, 0x92, 0xC)
        + descriptor(0, 0xFFFFF, 0xFA, 0xC)
        + descriptor(0, 0xFFFFF, 0xF2, 0xC)
        + descriptor(TSS, 0x67, 0x89, 0)
    )
    place(vm, GDT, table)
    place(vm, TSS + 4, struct.pack("<II", KERNEL_STACK, 0x10))
    place(vm, IDT + 0x80 * 8, struct.pack("<HHHH", HANDLER & 0xFFFF, 8, 0xEE00, HANDLER >> 16))
    place(vm, 0x4000, struct.pack("<HI", len(table) - 1, GDT))
    place(vm, 0x4008, struct.pack("<HI", 0x7FF, IDT))
    place(vm, HANDLER, bytes.fromhex("cf"))
    place(vm, USER, bytes.fromhex("cd80 ebfc"))
    # lgdt; lidt; mov ax,0x28; ltr ax; mov esp; push ss, esp, eflags, cs, eip of the user; iret
    place(
        vm,
        CODE,
        bytes.fromhex("0f011500400000 0f011d08400000 66b82800 0f00d8 bc")
        + struct.pack("<I", KERNEL_STACK)
        + bytes.fromhex("6a23 68")
        + struct.pack("<I", USER_STACK)
        + bytes.fromhex("6a02 6a1b 68")
        + struct.pack("<I", USER)
        + bytes.fromhex("cf"),
    )


def page_misses(vm: VirtualMachine) -> int:
    """A kernel that touches 256 pages and then reloads CR3, for ever; returns the pages of one round."""
    pages = 256
    place(vm, DIRECTORY, struct.pack("<II", TABLE | 3, (TABLE + 0x1000) | 3))
    for n in range(2048):
        place(vm, TABLE + 4 * n, struct.pack("<I", n << 12 | 0x63))
    # mov eax,DIRECTORY; mov cr3,eax; mov eax,cr0; or eax,1<<31; mov cr0,eax
    start = b"\xb8" + struct.pack("<I", DIRECTORY) + bytes.fromhex("0f22d8 0f20c0 0d00000080 0f22c0")
    # 1: mov esi,DATA; mov ecx,256; 2: mov eax,[esi]; add esi,4096; dec ecx; jnz 2b; mov eax,cr3; mov cr3,eax; jmp 1b
    body = b"\xbe" + struct.pack("<I", DATA) + b"\xb9" + struct.pack("<I", pages)
    body += bytes.fromhex("8b06 81c600100000 49 75f5 0f20d8 0f22d8")
    body += b"\xeb" + struct.pack("<b", -(len(body) + 2))
    place(vm, CODE, start + body)
    return pages
