"""``auto`` is ``trap`` for guests that are free of sensitive, unprivileged instructions, and ``patch`` for others."""

from __future__ import annotations

import pytest
from tern_guest import GUESTS, build

from hypervisor.boot.entry import Entry
from hypervisor.machine import VirtualMachine
from hypervisor.repl import machines
from hypervisor.state.model import MachineConfig
from hypervisor.techniques import Patch, Trap

CODE = 0x100000
POWER_OFF = bytes.fromhex("31c0 e7f4")

HOLES = {
    "pushf": "9c 59",
    "popf": "6a02 9d",
    "push cs": "0e 59",
    "push ss": "16 59",
    "mov from cs": "8cc8",
    "mov from ss": "8cd0",
    "sgdt": "0f0105 00002000",
    "sidt": "0f010d 00002000",
    "smsw": "0f01e0",
    "sldt": "0f00c0",
    "str": "0f00c8",
    "lar": "0f02c0",
    "lsl": "0f03c0",
    "verr": "0f00e0",
    "verw": "0f00e8",
}
HARMLESS = {"mov from ds": "8cd8", "push ds": "1e 59", "sgdt in a constant": "b8 0f010d9c", "nop": "90"}


def run(code: str) -> VirtualMachine:
    vm = VirtualMachine.create(MachineConfig(4 << 20, "auto", "exact"))
    vm.enter_kernel(Entry(CODE))
    # mov esp,...; jmp: what follows is another block
    program = bytes.fromhex("bc00003000 b800000000 eb00") + bytes.fromhex(code) + POWER_OFF
    vm.ram[CODE : CODE + len(program)] = program
    assert vm.run().reason == "exit"
    return vm


@pytest.mark.parametrize("code", HOLES.values(), ids=list(HOLES))
def test_a_hole_ends_the_time_of_trap_before_it_runs(code: str) -> None:
    with run(code) as vm:
        assert vm.technique == "patch"
        assert vm.hole is not None
        offset = 12 if not code.startswith("6a02") else 14
        assert (vm.hole.gva, vm.hole.instructions) == (CODE + offset, 3)
        assert vm.exit_counts()["port or system call site"] == 2  # itself, and the power


@pytest.mark.parametrize("code", HARMLESS.values(), ids=list(HARMLESS))
def test_nothing_else_does(code: str) -> None:
    with run(code) as vm:
        assert (vm.technique, vm.hole) == ("trap", None)


def test_it_looks_for_all_that_patch_watches_and_trap_does_not() -> None:
    assert Patch.one_byte_sites.keys() - Trap.one_byte_sites.keys() == {0x0E, 0x16, 0x8C, 0x9C, 0x9D}
    assert Patch.two_byte_sites.keys() - Trap.two_byte_sites.keys() == {0x00, 0x01, 0x02, 0x03}


def test_tern_stays_under_trap() -> None:
    build()
    with VirtualMachine.boot(
        GUESTS / "build" / "tern.elf", append='quiet run="primes 1000; poweroff 3"', technique="auto"
    ) as vm:
        vm.run()
        assert (vm.config.technique, vm.technique, vm.hole) == ("auto", "trap", None)


def test_a_guest_that_moved_begins_with_trap_again() -> None:
    build()
    with VirtualMachine.boot(GUESTS / "build" / "holes.elf", technique="auto") as vm:
        while vm.technique == "trap":
            vm.run(instructions=100)
        saved = vm.capture()
        ram = bytes(vm.ram)
        vm.run()
        told = bytes(vm.console.output)
        end = vm.digest()
    with VirtualMachine.create(machines.under(saved.config, "auto")) as vm:
        vm.ram[:] = ram
        vm.restore(saved)
        assert vm.technique == "trap"
        vm.run()
        assert vm.technique == "patch"
        assert told.endswith(vm.console.output)
        assert vm.digest() == end
