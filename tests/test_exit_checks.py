"""Code is translated without Unicorn's exit checks; watched instructions are nevertheless never run by the CPU."""

from __future__ import annotations

import platform
import struct

import pytest

from hypervisor.boot.entry import Entry
from hypervisor.machine import VirtualMachine
from hypervisor.state.model import MachineConfig

CODE, DATA = 0x100000, 0x200000
COUNT = 1000
MASK = 0x5A


def kernel(code: bytes, clock: str = "exact") -> VirtualMachine:
    vm = VirtualMachine.create(MachineConfig(8 << 20, "trap", clock))
    vm.enter_kernel(Entry(CODE))
    vm.ram[CODE : CODE + len(code)] = code
    return vm


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the library's translator is another one")
def test_exit_checks_are_left_out() -> None:
    with kernel(b"") as vm:
        assert vm.cpu.leaves_checks_out


@pytest.mark.parametrize("clock", ["exact", "wall"])
def test_a_port_is_read_by_the_monitor_in_whatever_block_it_is(clock: str) -> None:
    """Each round begins with a hidden fault, so the port's block is also entered, and asked for, in the middle."""
    # mov al,MASK; out 0x21,al; mov esi,DATA; mov ecx,COUNT; xor ebx,ebx
    start = bytes([0xB0, MASK, 0xE6, 0x21, 0xBE]) + struct.pack("<I", DATA)
    start += b"\xb9" + struct.pack("<I", COUNT) + bytes.fromhex("31db")
    # 1: mov eax,[esi]; xor eax,eax; in al,0x21; add ebx,eax; mov [esi],ebx; in al,0x21; add ebx,eax
    #    add esi,4096; dec ecx; jnz 1b; xor eax,eax; out 0xf4,eax
    body = bytes.fromhex("8b06 31c0 e421 01c3 891e e421 01c3 81c600100000 49 75e9 31c0 e7f4")
    with kernel(start + body, clock) as vm:
        assert vm.run().reason == "exit"
        assert vm.cpu.general(3) == 2 * MASK * COUNT


@pytest.mark.parametrize("clock", ["exact", "wall"])
def test_blocks_that_overlap_are_translated_again_only_so_often(clock: str) -> None:
    """After each port the next block begins, in the middle of the one before."""
    # mov ecx,COUNT; 1: 8 times out 0x80,al; dec ecx; jnz 1b; xor eax,eax; out 0xf4,eax
    ports = b"\xe6\x80" * 8
    code = b"\xb9" + struct.pack("<I", COUNT) + ports + b"\x49\x75" + bytes([0x100 - len(ports) - 3])
    with kernel(code + bytes.fromhex("31c0 e7f4"), clock) as vm:
        assert vm.run().reason == "exit"
        assert vm.exit_counts()["port or system call site"] == 8 * COUNT + 1
        assert vm.exit_counts()["scan"] < 100
