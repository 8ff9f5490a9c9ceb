"""A guest cannot tell under which technique it runs, nor that it was moved from one to another."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from live_move import move
from tern_guest import build

from hypervisor.errors import UsageError
from hypervisor.ext.cpu import EXIT_STOP
from hypervisor.machine import VirtualMachine
from hypervisor.migration.postcopy import MODES, Mode
from hypervisor.monitor.loop import FOREVER
from hypervisor.paging.forms import forms_for
from hypervisor.repl import machines
from hypervisor.state.model import MachineConfig
from hypervisor.techniques import TECHNIQUES

MEMORY = 8 << 20
SESSION = b"selftest\necho $?\npoweroff\n"
STEP = 3_000_000
WAYS = [(name, form) for name, technique in TECHNIQUES.items() for form in forms_for(technique.nested)]
HOPS = 30
MEANWHILE = 1_000_000
"""Instructions that a guest may go on for while it is copied."""


def boot(technique: str, paging: str) -> VirtualMachine:
    vm = VirtualMachine.boot(build(), memory=MEMORY, append="quiet", technique=technique, paging=paging)
    vm.console.send(SESSION)
    return vm


@functools.cache
def reference() -> tuple[dict[int, str], bytes]:
    """Digests of tern's selftest under ``trap`` at counts and at its end; and what it printed."""
    digests = {}
    with boot("trap", "lazy") as vm:
        while vm.run(until=vm.instructions + STEP).reason != "exit":
            digests[vm.instructions] = vm.digest()
        digests[vm.instructions] = vm.digest()
        return digests, bytes(vm.console.output)


def test_the_selftest_of_the_reference_passes() -> None:
    digests, console = reference()
    assert b"ALL TESTS PASSED" in console
    assert len(set(digests.values())) == len(digests) > 20


@pytest.mark.parametrize(("technique", "paging"), WAYS)
def test_every_technique_reaches_the_same_states(technique: str, paging: str) -> None:
    digests, console = reference()
    with boot(technique, paging) as vm:
        for count, expected in digests.items():
            vm.run(until=count)
            assert vm.digest() == expected, f"after {count} instructions"
        assert vm.console.output == console


def hop(vm: VirtualMachine, until: int, technique: str, paging: str, mode: Mode) -> VirtualMachine:
    """Move a guest, which goes on meanwhile, up to there, into a machine of this process that runs it in another way."""

    def make(config: MachineConfig, disks: Iterable[Path] = ()) -> VirtualMachine:
        return VirtualMachine.create(machines.under(config, technique), disks, paging=paging)

    return move(vm, until, mode=mode, make=make)[0]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("meanwhile", [0, MEANWHILE], ids=["stopped", "live"])
def test_a_guest_that_moves_around_all_techniques_ends_like_one_that_stayed(
    seed: int, meanwhile: int
) -> None:
    digests, console = reference()
    dice = random.Random(seed)
    last = max(digests)
    told = b""
    vm = boot("trap", "traced")
    for moment in sorted(dice.sample(range(last), HOPS)):
        vm.run(until=max(moment, vm.instructions))
        technique, paging = dice.choice(WAYS)
        mode: Mode = dice.choice(MODES) if meanwhile else "precopy"
        arrived = hop(vm, min(vm.instructions + meanwhile, last - 1), technique, paging, mode)
        told += vm.console.output
        vm.close()
        vm = arrived
        assert vm.config.technique == technique
    with vm:
        assert vm.run(until=last).reason == "exit"
        assert vm.digest() == digests[last]
        assert told + vm.console.output == console
        assert vm.epoch == HOPS


def test_the_fpu_is_read_while_an_interrupt_waits() -> None:
    """The CPU itself stores it, in a run of its own, in which an interrupt window must not open."""
    with boot("guest", "lazy") as vm:
        vm.run(until=2_000_000)
        before = [vm.cpu.control(3), vm.cpu.ring, vm.cpu.eflags]
        area = vm.cpu.save_fpu()
        vm.cpu.set_window(True)
        vm.cpu.request_stop()
        assert vm.cpu.run(FOREVER) == EXIT_STOP
        vm.cpu.forget_all()
        assert vm.cpu.save_fpu() == area
        assert [vm.cpu.control(3), vm.cpu.ring, vm.cpu.eflags] == before


@pytest.mark.parametrize("technique", ["trap", "patch", "auto"])
def test_nested_paging_wants_guest_mode(technique: str) -> None:
    with pytest.raises(UsageError, match=f"nested paging goes with guest mode only, not with {technique}"):
        VirtualMachine.boot("tern", technique=technique, paging="nested")


def test_a_saved_guest_says_nothing_of_its_technique_but_the_name() -> None:
    """Derived state does not travel: apart from that name, the states are equal in every field."""
    states = []
    for technique in TECHNIQUES:
        with boot(technique, "traced") as vm:
            vm.run(until=2_000_000)
            state = vm.capture()
            config = msgspec.structs.replace(state.config, technique="")
            states.append(msgspec.structs.replace(state, config=config, identity="0" * 32))
    assert all(state == states[0] for state in states)
