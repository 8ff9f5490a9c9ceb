"""Post-copy and hybrid over links that break and with peers that die, at every message: one owner, and no page lost."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from itertools import pairwise
from typing import Literal

import pytest
from breaking_link import ANYTHING, KINDS, Point, broken
from faulty_link import Direction, Fault, FaultyLink
from handover import HASTY, PATIENT, Destination
from killing import Killer, in_child, kill_points, killed
from owned_machine import Ledger, OwnedMachine, source_machine

from hypervisor.errors import MigrationError
from hypervisor.migration import (
    Address,
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
from hypervisor.migration.channel import Channel
from hypervisor.migration.policy import FixedRounds
from hypervisor.migration.postcopy import Mode
from hypervisor.migration.prepaging import Stretch
from hypervisor.state.sections import Readable

pytestmark = pytest.mark.slow

MOVING = pytest.mark.parametrize("mode", ["postcopy", "hybrid"])
TO_SOURCE: Direction = "to source"
TO_DESTINATION: Direction = "to destination"
Outcome = Literal["stayed", "unsettled", "owing", "arrived"]
ORDER: list[Outcome] = ["stayed", "unsettled", "owing", "arrived"]


class Waiting:
    """Pushes nothing before somebody has asked, so that there are wishes on the link; then page after page."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def asked(self, page: int) -> None:
        self._asked.set()

    def push(self, owed: bytearray) -> Stretch:
        last = owed.rfind(1)
        return Stretch(last, last + 1)


def attempt(
    source: OwnedMachine, address: Address, mode: Mode, timeouts: Timeouts = PATIENT
) -> SendError | None:
    policy = FixedRounds(2) if mode == "hybrid" else None
    try:
        send(source, address, mode=mode, policy=policy, prepaging=Waiting, timeouts=timeouts)
    except SendError as error:
        return error
    finally:
        assert not source.held
        assert not source.dirty.active
    return None


def settle(error: SendError, wanted: Departure.State) -> None:
    """The destination may be busy with a link that fell silent, so ask again."""
    for _ in range(300):
        with contextlib.suppress(LinkError):
            if error.handover.settle() is wanted:
                return
    pytest.fail(f"the handover is {error.handover.state}, not {wanted}")


class Guest(Destination):
    """A destination whose guest runs as soon as it has arrived: it reads all of its pages."""

    def _receive(self) -> None:
        super()._receive()
        if self.vm is not None:
            self.seen = self.vm.guest()


def hand_over(mode: Mode, fault: Fault | None, timeouts: Timeouts = PATIENT) -> Outcome:
    """One migration over a link with a fault, and the reconnection after it; returns how it went."""
    ledger = Ledger()
    source = source_machine(ledger)
    outcome: Outcome = "arrived"
    with Guest(ledger, timeouts) as destination, FaultyLink(destination.listener.address, fault) as link:
        error = attempt(source, link.address, mode, timeouts)
        assert "\n" not in str(error)
        if isinstance(error, OwingError):
            outcome = "owing"
            assert ledger.owners == ["destination 0"]
            settle(error, Departure.State.GONE)
        elif isinstance(error, UnsettledError):
            outcome = "unsettled"
            assert not source.owned
            settle(error, Departure.State.GONE)
        elif error is not None:
            outcome = "stayed"
            assert ledger.owners == ["source"]
            settle(error, Departure.State.OWNER)
        if outcome != "stayed":
            destination.join()  # its guest has read all that it was missing
    assert not ledger.violations
    if outcome == "stayed":
        assert ledger.owners == ["source"]
        assert all(vm.closed for vm in destination.made)
        assert source.epoch == 7
    else:
        assert ledger.owners == ["destination 0"]
        assert destination.vm is not None
        assert (destination.seen, destination.vm.epoch) == (source.guest(), 8)
    return outcome


def carried(mode: Mode) -> dict[Direction, int]:
    """Bytes that a migration without a fault takes, each way."""
    ledger = Ledger()
    with Guest(ledger) as destination, FaultyLink(destination.listener.address) as link:
        assert attempt(source_machine(ledger), link.address, mode) is None
        destination.join()
    return dict(link.carried)


def messages(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """After how many bytes to the destination each message, or piece of a stream, of the source ends."""
    ends: dict[Channel, list[int]] = {}
    write = Channel.write

    def noting(channel: Channel, data: Readable) -> None:
        write(channel, data)
        ends.setdefault(channel, []).append(channel.sent)

    with monkeypatch.context() as patched:
        patched.setattr(Channel, "write", noting)
        total = carried(mode)[TO_DESTINATION]
    (of_source,) = [found for found in ends.values() if found[-1] == total]
    return of_source


@MOVING
def test_a_guest_arrives_before_its_pages(mode: Mode) -> None:
    assert hand_over(mode, None) == "arrived"


@MOVING
@pytest.mark.parametrize("kind", ["close", "reset"])
def test_a_link_cut_after_any_byte_to_the_source_loses_nothing(mode: Mode, kind: str) -> None:
    """Welcome, Ready, Prepared, Ack, every Want, Complete."""
    total = carried(mode)[TO_SOURCE]
    outcomes = [hand_over(mode, Fault(TO_SOURCE, count, kind)) for count in range(total)]
    assert set(outcomes) >= {"stayed", "unsettled", "owing"}
    before_commit = outcomes[: outcomes.index("unsettled")]
    assert set(before_commit) == {"stayed"}
    assert "stayed" not in outcomes[len(before_commit) :]


@MOVING
@pytest.mark.parametrize("kind", ["close", "reset"])
def test_a_link_cut_in_any_message_to_the_destination_loses_nothing(
    mode: Mode, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it, in the middle of it, and with its last byte missing."""
    ends = messages(mode, monkeypatch)
    counts = {at for start, end in pairwise([0, *ends]) for at in (start, (start + end) // 2, end - 1)}
    outcomes = [hand_over(mode, Fault(TO_DESTINATION, count, kind)) for count in sorted(counts)]
    assert {"stayed", "unsettled", "owing"} <= set(outcomes)
    assert sorted(outcomes, key=ORDER.index) == outcomes


@pytest.mark.soak
@MOVING
def test_a_link_cut_after_any_byte_to_the_destination_loses_nothing(mode: Mode) -> None:
    total = carried(mode)[TO_DESTINATION]
    outcomes = [hand_over(mode, Fault(TO_DESTINATION, count, "close")) for count in range(total)]
    assert sorted(outcomes, key=ORDER.index) == outcomes


@pytest.mark.soak
@MOVING
def test_a_link_that_falls_silent_in_any_message_to_the_destination_loses_nothing(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start, end in pairwise([0, *messages(mode, monkeypatch)]):
        for count in {start, (start + end) // 2}:
            hand_over(mode, Fault(TO_DESTINATION, count, "stall"), HASTY)


@MOVING
@pytest.mark.parametrize("kind", KINDS)
def test_a_link_that_breaks_in_any_message_to_the_source_loses_nothing(
    mode: Mode, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of it, with what came before said; every wish for a page is one, too."""
    timeouts = HASTY if kind == "stall" else PATIENT
    outcomes: list[Outcome] = []
    while not outcomes or outcomes[-1] != "arrived":
        with broken(monkeypatch, "destination", Point(ANYTHING, len(outcomes) + 1), kind):
            outcomes.append(hand_over(mode, None, timeouts))
    assert set(outcomes) == set(ORDER)
    if kind != "stall":  # a host that is busy may use up so little patience before the link falls silent
        assert sorted(outcomes, key=ORDER.index) == outcomes


@MOVING
@pytest.mark.parametrize("direction", [TO_SOURCE, TO_DESTINATION])
def test_a_link_that_falls_silent_loses_nothing(mode: Mode, direction: Direction) -> None:
    total = carried(mode)[direction]
    step = max(total // 16, 1)
    for count in [0, 1, *range(step, total, step), total - 100, total - 1]:
        hand_over(mode, Fault(direction, count, "stall"), HASTY)


@MOVING
def test_an_altered_bit_anywhere_loses_nothing(mode: Mode) -> None:
    for direction, total in carried(mode).items():
        for byte in range(0, total, max(total // 40, 1)):
            hand_over(mode, Fault(direction, byte, "flip"), HASTY)


# ---------------------------------------------------------------------------------- processes killed


@MOVING
def test_a_destination_killed_at_any_step_leaves_no_two_owners(mode: Mode) -> None:
    """When it dies with the guest, an operator can still bring back the guest as it was when it left."""
    outcomes = []
    for step, when in kill_points():
        ledger = Ledger()
        source = source_machine(ledger)
        listener = Listener("tcp::0", timeouts=PATIENT)
        told, tell = os.pipe()

        def work(listener=listener, step=step, when=when, tell=tell) -> None:
            class Teller(Ledger):
                def changed(self, machine, owned):
                    super().changed(machine, owned)
                    if owned:
                        os.write(tell, b"owner")

            Killer(step, when)
            report = Report()
            vm = listener.receive(
                lambda config: OwnedMachine(config, Teller(), "destination"), timeout=20, report=report
            )
            vm.guest()
            while report.status != "completed":  # the pager says so last
                time.sleep(0.001)

        child = in_child(work)
        address = listener.address
        listener._acceptor.close()  # the child alone listens now
        os.close(tell)
        error = attempt(source, address, mode)
        was_killed = killed(child)
        with os.fdopen(told, "rb") as pipe:
            ran_there = pipe.read() == b"owner"
        assert not (source.owned and ran_there)
        outcome: Outcome = "arrived"
        if isinstance(error, UnsettledError | OwingError):
            outcome = "owing" if isinstance(error, OwingError) else "unsettled"
            assert ran_there or outcome == "unsettled"
            with pytest.raises(MigrationError, match="nobody listens"):
                error.handover.settle()
            assert not source.owned  # no answer settles nothing
            error.handover.force()  # an operator, who knows that the process is dead
            assert source.owned
            assert source.epoch == 9
        elif error is not None:
            outcome = "stayed"
            assert source.owned
        outcomes.append(outcome)
        if not was_killed:
            break
    assert set(outcomes) == set(ORDER)
