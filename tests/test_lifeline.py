"""The source is lost before the last page has come: the guest is brought back, and nobody can tell."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
from faulty_link import FaultyLink
from killing import Killer, in_child, kill_points, killed
from live_move import Reluctant
from scripted_guest import Reference, advance, boot

from hypervisor.errors import HypervisorError
from hypervisor.machine import VirtualMachine
from hypervisor.migration import (
    Address,
    Departure,
    LinkError,
    Listener,
    OwingError,
    Report,
    SendError,
    Timeouts,
    send,
)
from hypervisor.migration.policy import Decision
from hypervisor.migration.prepaging import Bubbling, Stretch

pytestmark = pytest.mark.slow

HASTY = Timeouts(connect=20, message=20, settle=0)
END = 6_200_000
TYPING = (430_000, 2_430_000, 2_830_000, 5_430_000)
"""Something is typed between the checkpoint of a guest that leaves then and its leaving."""
STARTS = (*TYPING, 530_000)


@functools.cache
def reference() -> Reference:
    return Reference([END])


class Rounds:
    """A policy whose guest executes a little before each decision: one round, then the checkpoint."""

    def __init__(self, vm: VirtualMachine) -> None:
        self._vm = vm

    def decide(self, rounds: object) -> Decision:
        advance(self._vm, self._vm.instructions + 20_000)
        return Decision("enough") if rounds else Decision()


class Receiver:
    """A listener whose guest goes on with the script as soon as it has come, up to END."""

    def __init__(self, timeouts: Timeouts = HASTY, **options: str) -> None:
        self.listener = Listener("tcp::0", timeouts=timeouts)
        self.report = Report()
        self.vm: VirtualMachine | None = None
        self.error: Exception | None = None
        self._options = options
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        while not self.listener.waiting:
            time.sleep(0.0001)

    def _work(self) -> None:
        try:
            self.vm = self.listener.receive(
                lambda config: VirtualMachine.create(config, **self._options), report=self.report, timeout=60
            )
            advance(self.vm, END)
        except HypervisorError as error:
            self.error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()
        self._thread.join()
        if self.vm is not None:
            self.vm.close()


def leave(
    vm: VirtualMachine,
    address: Address,
    typed: list[int] | None = None,
    followed: Callable[[float], None] | None = None,
) -> tuple[Report, SendError | None]:
    """Send a guest, which executes a little now and then. ``typed``: how much was typed after the checkpoint.
    ``followed``, called when it has left, is told which share of the pages it left behind have followed it.
    """
    report = Report()
    owed: list[int] = []

    def between(done: int, total: int) -> None:
        if vm.journal is not None and vm.owned:
            advance(vm, vm.instructions + 30_000)
            if typed is not None:
                typed[:] = [len(vm.journal.inputs)]
        elif report.status == "postcopy-active" and followed is not None and total > done:
            owed.append(total - done)
            followed(1 - owed[-1] / owed[0])

    try:
        send(
            vm,
            address,
            mode="hybrid",
            policy=Rounds(vm),
            prepaging=Reluctant,
            progress=between,
            report=report,
            timeouts=HASTY,
        )
    except SendError as error:
        return report, error
    return report, None


@pytest.mark.parametrize("start", STARTS)
def test_a_guest_that_leaves_with_a_checkpoint_cannot_tell(start: int) -> None:
    with Receiver() as receiver, advance(boot(), start) as vm:
        typed = [0]
        report, error = leave(vm, receiver.listener.address, typed)
        receiver.join()
        assert error is None
        assert (typed[0] > 0) == (start in TYPING)
        assert receiver.vm is not None
        assert receiver.report.recovery_time is None
        reference().check(receiver.vm)
        assert vm.console.output + receiver.vm.console.output == reference().console[END]
        assert report.ram.postcopy_bytes > 5 * 4096


@pytest.mark.parametrize("paging", ["lazy", "traced"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("start", STARTS)
def test_a_guest_whose_source_is_lost_goes_on_from_its_checkpoint(
    start: int, share: float, paging: str
) -> None:
    with Receiver(paging=paging) as receiver, advance(boot(), start) as vm:
        with FaultyLink(receiver.listener.address) as link:

            def followed(so_far: float) -> None:
                if so_far >= share and not cuts:
                    cuts.append(so_far)
                    link.cut()

            cuts: list[float] = []
            _, error = leave(vm, link.address, followed=followed)
            assert cuts
            assert isinstance(error, OwingError)
            told = bytes(vm.console.output)
            vm.close()  # and with it the pages
            receiver.join()
        assert receiver.error is None
        assert receiver.vm is not None
        assert (receiver.vm.instructions, receiver.vm.epoch) == (END, 1)
        reference().check(receiver.vm)  # it may have come here without the pages that are missing
        assert receiver.report.status == "completed"
        assert receiver.report.recovery_time is not None
        assert told + receiver.vm.console.output == reference().console[END]
        assert receiver.vm.owned


@pytest.mark.parametrize("start", [TYPING[0]])
def test_a_source_killed_at_any_step_takes_nothing_with_it(start: int) -> None:
    """Every message of the source, enumerated: the guest dies with it before it was prepared here, and never later."""
    outcomes = []
    for step, when in kill_points():
        outcome, was_killed = source_killed(start, step, when)
        outcomes.append(outcome)
        if not was_killed:
            break
    assert set(outcomes) == {"lost", "forced", "rescued", "arrived"}
    assert outcomes[0] == "lost"
    assert outcomes[-1] == "arrived"


def source_killed(start: int, step: int, when: str) -> tuple[str, bool]:
    """How it goes if the source dies at this step of its talk with the destination; and whether it did."""
    with Receiver() as receiver:
        listener = receiver.listener

        def work() -> None:
            Killer(step, when)
            leave(advance(boot(), start), listener.address)

        was_killed = killed(in_child(work))
        forced = False
        patience = (
            time.monotonic() + 0.3
        )  # for what the dead source has sent; if it has not even begun, for nothing
        while receiver.running and time.monotonic() < patience:
            if listener.unsettled and not forced:
                listener.force()  # an operator, who knows that the source is dead
                forced = True
            if receiver.report.status not in ("none", "setup"):
                patience = time.monotonic() + 20
            time.sleep(0.001)
        listener.close()
        receiver.join()
        vm = receiver.vm
        if vm is None:
            assert not forced
            return "lost", was_killed
        assert receiver.error is None
        reference().check(vm)
        assert vm.epoch == 1
        assert reference().console[END].endswith(vm.console.output)
        rescued = receiver.report.recovery_time is not None
        return "forced" if forced else "rescued" if rescued else "arrived", was_killed


class Slowly:
    """A policy that leaves the guest time to write before the last pages go."""

    def decide(self, rounds: object) -> Decision:
        time.sleep(0.3)
        return Decision("enough") if rounds else Decision()


class Cut(Bubbling):
    """The link breaks before a page has gone."""

    def push(self, owed: bytearray) -> Stretch:
        raise LinkError("the link was cut")


@pytest.mark.parametrize("why", ["wall clock", "persistent disk"])
def test_a_guest_that_cannot_be_replayed_waits_for_its_source(why: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 16))
    disks = [f"{disk},persist"] if why == "persistent disk" else []
    work = 'quiet run="dirty 100000 500"'  # so that there are pages to follow it
    vm = boot(clock="wall" if why == "wall clock" else "exact", disks=disks, append=work)
    assert not vm.replayable
    busy = threading.Thread(target=vm.run)
    busy.start()
    with vm, Listener("tcp::0", timeouts=HASTY) as listener:
        arrived: list[VirtualMachine] = []
        report = Report()
        receiver = threading.Thread(
            target=lambda: arrived.append(
                listener.receive(lambda config: VirtualMachine.create(config, disks), report=report)
            )
        )
        receiver.start()
        while not listener.waiting:
            time.sleep(0.0001)
        orders = iter([Cut(), Bubbling()])
        with pytest.raises(OwingError) as caught:
            send(
                vm,
                listener.address,
                mode="hybrid",
                policy=Slowly(),
                prepaging=lambda: next(orders),
                timeouts=HASTY,
            )
        busy.join()
        receiver.join()
        there = arrived[0]
        with there:
            while report.status != "postcopy-paused":
                time.sleep(0.001)
            assert there.absent.count > 0
            assert there.owned
            assert caught.value.handover.settle() is Departure.State.GONE
            assert bytes(there.ram) == bytes(vm.ram)
            assert report.recovery_time is None
