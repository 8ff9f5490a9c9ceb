"""A link that breaks, or a monitor that is killed, at any message while a running guest moves.

The guest is tern, which works; on one side at most it runs on, in the state of its twin, and nothing that it
has synced to its disk is lost. Every message is enumerated. (That no two ever own it, and every byte and
every read, is in test_migration_handover.py, with machines that are quicker.)
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from breaking_link import KINDS, STREAM, Point, broken
from killing import EVERY_MESSAGE, Killer, in_child, kill_points, killed
from live_move import Destination, Runner
from scripted_guest import difference
from tern_disk import assert_churned, small_disk
from tern_guest import build

from hypervisor.errors import FramesLostError, HypervisorError, MigrationError
from hypervisor.machine import Snapshot, VirtualMachine
from hypervisor.migration import (
    Departure,
    LinkError,
    Listener,
    OwingError,
    Report,
    SendError,
    Timeouts,
    UnsettledError,
    send,
)
from hypervisor.migration.policy import FixedRounds
from hypervisor.migration.postcopy import Mode

pytestmark = pytest.mark.slow

MEMORY = 8 << 20
WORK = 'quiet run="dirty 10000 200 & sum 100000"'
BEGIN = 1_500_000
SHORT = 200_000
"""Instructions that whoever has the guest in the end runs it on."""

PATIENT = Timeouts(connect=20, message=20, settle=0)
HASTY = Timeouts(connect=20, message=2, settle=0)
POLICY = FixedRounds(2)
MODES = pytest.mark.parametrize("mode", ["precopy", "postcopy", "hybrid"])


@functools.cache
def working_guest() -> Snapshot:
    with VirtualMachine.boot(build(), memory=MEMORY, append=WORK) as vm:
        assert vm.run(until=BEGIN).reason == "limit"
        return vm.snapshot()


def guest() -> VirtualMachine:
    snapshot = working_guest()
    vm = VirtualMachine.create(snapshot.state.config)
    vm.load_snapshot(snapshot)
    return vm


def assert_unharmed(vm: VirtualMachine) -> None:
    """It is what its twin is at that instruction, and again somewhat later."""
    with guest() as twin:
        for _ in range(2):
            assert twin.run(until=vm.instructions).reason == "limit"
            if vm.digest() != twin.digest():
                raise AssertionError(f"at {vm.instructions:,} these differ: {difference(vm, twin)}")
            assert vm.run(instructions=SHORT).reason == "limit"


# ------------------------------------------------------------------------------------------ the link


def move_over_a_broken_link(monkeypatch: pytest.MonkeyPatch, side: str, point: Point, kind: str) -> str:
    """A running guest on a link that breaks at that point; how it went, and that nothing was harmed."""
    timeouts = HASTY if kind == "stall" else PATIENT
    # (Before it listens: a call of `accept` that waits already stays what it is.)
    with guest() as vm, broken(monkeypatch, side, point, kind), Destination(timeouts) as destination:
        error: SendError | None = None
        with Runner(vm) as runner:
            try:
                send(vm, destination.listener.address, policy=POLICY, timeouts=timeouts)
            except SendError as raised:
                error = raised
                assert "\n" not in str(error)
            if error is not None and not isinstance(error, UnsettledError):
                # It never noticed: it is still in the same run.
                before = vm.visit(lambda: vm.instructions)
                deadline = time.monotonic() + 60
                while vm.visit(lambda: vm.instructions) == before:
                    assert time.monotonic() < deadline
                vm.request_stop()
        assert runner.stop is not None
        if error is not None and not isinstance(error, UnsettledError):
            assert runner.stop.reason == "stop"
            settle(error, Departure.State.OWNER)
            assert all(not made.owned for made in destination.made)
            assert_unharmed(vm)
            return "stayed"
        assert runner.stop.reason == "moved"
        if error is not None:
            with pytest.raises(HypervisorError, match="does not own"):
                vm.run()
            settle(error, Departure.State.GONE)
        arrived = destination.join()
        assert arrived is not None
        assert not vm.owned
        assert_unharmed(arrived)
        return "arrived" if error is None else "settled"


def settle(error: SendError, expected: Departure.State) -> None:
    """The destination may still be busy with a link that fell silent, so ask again."""
    deadline = time.monotonic() + 60
    while True:
        try:
            assert error.handover.settle() is expected
        except LinkError:
            assert time.monotonic() < deadline
            continue
        return


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_that_breaks_in_any_message_of_the_source_leaves_a_running_guest_on_one_side(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome(point: Point) -> str:
        return move_over_a_broken_link(monkeypatch, "source", point, kind)

    assert outcome(Point("Hello")) == outcome(Point("Configure")) == "stayed"
    pieces = []
    while not pieces or pieces[-1] != "arrived":
        pieces.append(outcome(Point(STREAM, len(pieces) + 1)))
    assert pieces[:-1] == ["stayed"] * (len(pieces) - 1)
    assert len(pieces) > 5  # two rounds and their ends, and the rest
    assert outcome(Point("Commit")) == "settled"


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_that_breaks_in_any_message_of_the_destination_leaves_a_running_guest_on_one_side(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = ("Welcome", 1), ("Ready", 1), ("RoundReceived", 1), ("RoundReceived", 2), ("Prepared", 1)
    for point in points:
        assert move_over_a_broken_link(monkeypatch, "destination", Point(*point), kind) == "stayed"
    assert move_over_a_broken_link(monkeypatch, "destination", Point("Ack"), kind) == "settled"


# ----------------------------------------------------------------------------------------- the monitors

CHURN = 'quiet run="churn 1000000"'


class Told(bytearray):
    """A console's output that also goes into a pipe, for who outlives this process."""

    pipe = -1

    def __iadd__(self, data: Any) -> Self:
        os.write(self.pipe, data)
        return super().__iadd__(data)


class Disks:
    """A disk on which tern works, and what it was told to be safe there; its twin works on another."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.twins = folder / "ours", folder / "twins"
        for path in (self.ours, self.twins):
            path.write_bytes(small_disk().data)
        self.told, self.tell = os.pipe()
        os.set_blocking(self.told, False)
        self.console = b""

    def boot(self, path: Path) -> VirtualMachine:
        return VirtualMachine.boot(build(), memory=MEMORY, append=CHURN, disks=[f"{path},persist"])

    def boot_in_child(self) -> VirtualMachine:
        vm = self.boot(self.ours)
        self.overhear(vm)
        return vm

    def overhear(self, vm: VirtualMachine) -> None:
        """What the guest says goes into the pipe, too, in the moment in which it leaves."""
        told = Told()
        told.pipe = self.tell
        vm.console.output = vm.outlet._output = told

    def close(self) -> None:
        os.close(self.told)
        os.close(self.tell)

    def heard(self) -> int:
        """The last round that anybody said to be synced."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.told, 1 << 16):
                self.console += data
        return max([0, *map(int, re.findall(rb"synced (\d+)\r\n", self.console))])

    def assert_unharmed(self, vm: VirtualMachine) -> None:
        """The guest is what its twin is, and works on; its disk holds all that was synced."""
        vm.run(instructions=SHORT)
        with self.boot(self.twins) as twin:
            assert twin.run(until=vm.instructions).reason == "limit"
            assert vm.digest() == twin.digest(), difference(vm, twin)
        self.console += vm.console.output
        vm.close()
        self.assert_safe()

    def assert_safe(self) -> None:
        assert_churned(self.ours.read_bytes(), self.heard())


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[type[Disks]]:
    """Disks in memory where that is possible: the guest syncs all the time, and SIGKILL loses no file either way."""
    made: list[Disks] = []
    memory = Path("/dev/shm")
    held = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path)

    class Fresh(Disks):
        def __init__(self) -> None:
            folder = Path(held.name, str(len(made)))
            folder.mkdir()
            super().__init__(folder)
            made.append(self)

    with held:
        yield Fresh  # type: ignore[misc]
    for one in made:
        one.close()


def until_it_syncs(vm: VirtualMachine) -> None:
    while b"synced 2" not in vm.console.output:
        assert vm.run(instructions=100_000).reason == "limit"


def policy_of(mode: Mode) -> FixedRounds | None:
    return None if mode == "postcopy" else POLICY


def source_killed(step: int, when: str, disks: Disks, mode: Mode) -> tuple[str, bool]:
    """A guest whose source dies when it owes it pages is lost: with a disk of its own it cannot be replayed."""
    with Listener("tcp::0", timeouts=PATIENT) as listener:

        def work() -> None:
            vm = disks.boot_in_child()
            until_it_syncs(vm)
            runner = Runner(vm)
            runner.__enter__()
            Killer(step, when, EVERY_MESSAGE)
            send(vm, listener.address, mode=mode, policy=policy_of(mode), timeouts=PATIENT)

        def make(config) -> VirtualMachine:
            return VirtualMachine.create(config, [f"{disks.ours},persist"])

        child = in_child(work)
        vm, was_killed, report = None, None, Report()
        while vm is None and was_killed is None:
            dead, status = os.waitpid(child, os.WNOHANG)
            # If it is dead, then all that it ever sent lies in our socket, and this is the last time.
            with contextlib.suppress(MigrationError):
                vm = listener.receive(make, timeout=0.1, report=report)
            was_killed = os.WIFSIGNALED(status) if dead else None
        if was_killed is None:
            was_killed = killed(child)
        outcome = "arrived" if vm is not None else "unsettled" if listener.unsettled else "lost"
        if outcome == "unsettled":
            # An operator, who knows that the source is dead.
            if mode == "precopy":
                listener.force()
                vm = listener.receive(make, timeout=20)
            else:
                with contextlib.suppress(MigrationError):  # unless some of its pages are still at its source
                    listener.force()
                    vm = listener.receive(make, timeout=20)
                if vm is None:
                    listener.discard()
        if vm is None:
            disks.assert_safe()
            return outcome, was_killed
        while report.status == "postcopy-active":
            time.sleep(0.001)
        listener.close()  # or the guest would wait for its pages for ever
        try:
            disks.assert_unharmed(vm)
        except FramesLostError:
            assert mode != "precopy"
            outcome = "starved"
            vm.close()
            disks.assert_safe()
        return outcome, was_killed


@pytest.mark.soak
@MODES
def test_a_source_killed_at_any_message_loses_nothing_that_was_synced(disks, mode: Mode) -> None:
    outcomes = []
    for step, when in kill_points():
        outcome, was_killed = "lost", False
        while outcome == "lost" and not was_killed:  # it came between two calls of `receive`, and was refused
            outcome, was_killed = source_killed(step, when, disks(), mode)
        outcomes.append(outcome)
        if not was_killed:
            break
    order = ["lost", "unsettled", "starved", "arrived"]
    if mode == "precopy":
        order.remove("starved")
        assert outcomes == sorted(outcomes, key=order.index)
    # Otherwise the number of messages before Commit, and after it, is another in each run.
    assert set(outcomes) == set(order)


def destination_killed(step: int, when: str, disks: Disks, mode: Mode) -> tuple[str, bool]:
    listener = Listener("tcp::0", timeouts=PATIENT)

    def work() -> None:
        Killer(step, when, EVERY_MESSAGE)

        def make(config) -> VirtualMachine:
            return VirtualMachine.create(config, [f"{disks.ours},persist"])

        vm = listener.receive(make, timeout=60)
        disks.overhear(vm)
        vm.run(instructions=SHORT)
        while vm.absent.count:  # the source is not left with pages that it owes
            time.sleep(0.001)

    child = in_child(work)
    address = listener.address
    listener._acceptor.close()  # the child alone listens now
    with disks.boot(disks.ours) as vm:
        until_it_syncs(vm)
        error: SendError | None = None
        with Runner(vm) as runner:
            try:
                send(vm, address, mode=mode, policy=policy_of(mode), timeouts=PATIENT)
            except SendError as raised:
                error = raised
            was_killed = killed(child)
            vm.request_stop()
        assert runner.stop is not None
        if error is None or isinstance(error, OwingError):
            assert not vm.owned
            disks.console += vm.console.output
            disks.assert_safe()
            return "arrived" if error is None else "owing", was_killed
        if isinstance(error, UnsettledError):
            assert runner.stop.reason == "moved"
            with pytest.raises(LinkError):
                error.handover.settle()
            with pytest.raises(HypervisorError, match="does not own"):
                vm.run()
            error.handover.force()  # an operator, who knows that the process is dead, and had not run it
        disks.assert_unharmed(vm)
        return "unsettled" if isinstance(error, UnsettledError) else "stayed", was_killed


@pytest.mark.soak
@MODES
def test_a_destination_killed_at_any_message_loses_nothing_that_was_synced(disks, mode: Mode) -> None:
    outcomes = []
    for step, when in kill_points():
        outcome, was_killed = destination_killed(step, when, disks(), mode)
        outcomes.append(outcome)
        if not was_killed:
            break
    order = ["stayed", "unsettled", "owing", "arrived"]
    if mode == "precopy":
        order.remove("owing")
        assert outcomes == sorted(outcomes, key=order.index)
    # Otherwise the number of messages before Commit, and after it, is another in each run.
    assert set(outcomes) == set(order)
