"""A state and the journal since make the state later, whenever it was that something was typed."""

from __future__ import annotations

import random
import threading
import time

import pytest
from scripted_guest import MEMORY, boot
from tern_guest import build

from hypervisor.errors import StateError
from hypervisor.machine import Snapshot, VirtualMachine
from hypervisor.monitor.replay import Repetition
from hypervisor.state.journal import Input, Journal

KEYS = [b"ps\n", b"echo hello\n", b"sleep 1\n", b"count 3 5 &\n", b"x\x7f", b"sum 1; uptime\n", b"\n"]


def typist(vm: VirtualMachine, dice: random.Random, number: int, longest: float) -> threading.Thread:
    def work() -> None:
        for _ in range(number):
            time.sleep(dice.random() * longest)
            vm.console.send(dice.choice(KEYS))

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def live(vm: VirtualMachine, typing: threading.Thread, stops: random.Random) -> None:
    """Run while somebody types, in runs of any length, and a little longer."""
    while typing.is_alive():
        assert vm.run(instructions=stops.choice([1, 1_000, 200_000])).reason in ("limit", "idle")
    vm.run(instructions=100_000)


def check(begin: Snapshot, journal: Journal, vm: VirtualMachine, before: int) -> None:
    with VirtualMachine.create(vm.config) as other:
        other.load_snapshot(begin)
        other.console.output += vm.console.output[before:]
        other.go_back(begin.state, journal.told)
        other.replay(journal.inputs, vm.moment)
        assert other.digest() == vm.digest()
        assert other.console.output == vm.console.output[before:], "something was told twice"
        end = vm.instructions + 300_000
        for machine in (vm, other):
            machine.console.send(b"ps\n")
            machine.run(until=end)
        assert other.digest() == vm.digest()
        assert other.console.output == vm.console.output[before:]


@pytest.mark.parametrize("pace", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_guest_lives_through_the_same_again(seed: int, pace: bool) -> None:
    dice = random.Random(seed)
    with boot() as vm:
        vm.run(until=400_000 + dice.randrange(300_000))
        vm.pace = pace
        begin, vm.journal, before = vm.snapshot(), Journal(), len(vm.console.output)
        typing = typist(vm, dice, 12, 0.05)
        live(vm, typing, random.Random(seed))
        vm.pace = False
        assert len(vm.journal.inputs) > 3
        assert vm.journal.told == len(vm.console.output) - before
        if pace:
            assert any(one.skipped > begin.state.clock.skipped for one in vm.journal.inputs)
        journal, vm.journal = vm.journal, None
        check(begin, journal, vm, before)


def test_a_guest_that_tells_something_else_is_not_believed() -> None:
    with VirtualMachine.boot(build(), memory=MEMORY) as vm:
        vm.run(until=400_000)
        begin, vm.journal, before = vm.snapshot(), Journal(), len(vm.console.output)
        vm.console.send(b"echo one\n")
        vm.run(until=700_000)
        journal, vm.journal = vm.journal, None
        (typed,) = journal.inputs
        with VirtualMachine.create(vm.config) as other:
            other.load_snapshot(begin)
            other.console.output += vm.console.output[before:]
            other.go_back(begin.state, journal.told)
            with pytest.raises(StateError, match="cannot be replayed"):
                other.replay([Input(typed.instructions, typed.skipped, b"echo two\n")], vm.moment)


def test_a_stop_that_was_asked_for_meanwhile_comes_afterwards() -> None:
    with boot() as vm:
        vm.run(until=300_000)
        begin = vm.snapshot()
        vm.run(until=900_000)
        end, here = vm.digest(), vm.moment
        vm.load_snapshot(begin)
        vm.go_back(begin.state, 0)
        vm.request_stop()
        vm.replay([], here)
        assert vm.digest() == end
        assert vm.run(until=1_000_000).reason == "stop"


def test_only_what_is_new_is_told() -> None:
    repetition = Repetition(7, b"3456")
    assert repetition.new(b"01") == b""
    assert repetition.new(b"234") == b""
    assert repetition.new(b"56789") == b"789"
    assert repetition.new(b"more") == b"more"
    with pytest.raises(StateError, match="tells something else"):
        Repetition(2, b"yes").new(b"xyz")
