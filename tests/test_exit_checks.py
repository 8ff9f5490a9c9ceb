"""Code is translated without Unicorn's exit checks; watched instructions are nevertheless never run by the CPU."""

from __future__ import annotations

import platform
import struct

import pytest

from hypervisor.machine import VirtualMachine
from hypervisor.state.model import MachineConfig

CODE, DATA = 0x100000, 0x200000
COUNT = 1000
MASK = 0x5A


def kernel(code: bytes, clock: str = "exact") -> VirtualMachine:
    vm = VirtualMachine.create(MachineConfig(8 << 20, "trap", clock))
    vm.enter_kernel(CODE, 0)
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
