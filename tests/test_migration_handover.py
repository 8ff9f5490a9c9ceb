"""The guest runs on exactly one side, or on none until that is settled; never on both."""

from __future__ import annotations

import contextlib
import os

import pytest
from faulty_link import Fault, FaultyLink
from handover import HASTY, PATIENT, Destination, attempt, carried, withdraw
from killing import Killer, in_child, kill_points, killed
from owned_machine import Ledger, OwnedMachine, source_machine

from hypervisor.errors import MigrationError
from hypervisor.migration import (
    Departure,
    Listener,
    Timeouts,
    UnsettledError,
    send,
)
from hypervisor.migration.policy import FixedRounds


def hand_over(fault: Fault | None, timeouts: Timeouts = PATIENT) -> str:
    """One migration over a link with a fault, and the reconnection after it; returns how it went."""
    ledger = Ledger()
    source = source_machine(ledger)
    outcome = "arrived"
    with Destination(ledger, timeouts) as destination:
        with FaultyLink(destination.listener.address, fault) as link:
            error = attempt(source, link.address, timeouts)
            if isinstance(error, UnsettledError):
                outcome = "unsettled"
                assert not source.owned
                assert ledger.owners in ([], ["destination 0"])
                # It connects again, now without a fault.
                assert error.handover.settle_within(60) is Departure.State.GONE
            elif error is not None:
                outcome = "stayed"
                assert ledger.owners == ["source"]
                assert "\n" not in str(error)
                withdraw(error)
        if outcome != "stayed":
            destination.join()
    assert not ledger.violations
    if outcome == "stayed":
        assert ledger.owners == ["source"]
        assert all(vm.closed for vm in destination.made)
        assert source.epoch == 7
    else:
        assert ledger.owners == ["destination 0"]
        assert destination.vm is not None
        assert (destination.vm.guest(), destination.vm.epoch) == (source.guest(), 8)
        assert not destination.vm.closed
    return outcome


def test_a_guest_arrives_as_it_left() -> None:
    assert hand_over(None) == "arrived"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["close", "reset"])
def test_a_link_cut_after_any_byte_to_the_source_leaves_one_owner(kind) -> None:
    total = carried()["to source"]
    outcomes = [hand_over(Fault("to source", count, kind)) for count in range(total + 1)]
    # Not one byte of Prepared is missing before a Commit; not one byte of Ack may be missing after it.
    assert set(outcomes) == {"stayed", "unsettled", "arrived"}
    assert sorted(outcomes, key=["stayed", "unsettled", "arrived"].index) == outcomes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["close", "reset"])
def test_a_link_cut_after_any_byte_to_the_destination_leaves_one_owner(kind) -> None:
    total = carried()["to destination"]
    # All of the messages at both ends; of the stream between them, which has tests of its own, a part.
    counts = [*range(400), *range(400, total - 160, 173), *range(total - 160, total + 1)]
    outcomes = [hand_over(Fault("to destination", count, kind)) for count in counts]
    assert outcomes[0] == "stayed"
    assert {"stayed", "unsettled"} <= set(outcomes)
    assert "arrived" not in outcomes[:-1]


@pytest.mark.parametrize("direction", ["to source", "to destination"])
def test_a_link_that_falls_silent_leaves_one_owner(direction) -> None:
    total = carried()[direction]
    step = max(total // 12, 1)
    for count in [0, 1, *range(step, total, step), total - 100, total - 1, total]:
        hand_over(Fault(direction, count, "stall"), HASTY)


def test_an_altered_bit_anywhere_never_arrives() -> None:
    totals = carried()
    for direction, count in totals.items():
        for byte in [
            *range(0, min(count, 300), 7),
            *range(300, count, 997),
            *range(max(count - 150, 0), count, 7),
        ]:
            # In the Ack, or in a Commit, the link is as good as cut; before them the guest stays.
            assert hand_over(Fault(direction, byte, "flip"), HASTY) in ("stayed", "unsettled")


# ---------------------------------------------------------------------------------- processes killed


def test_a_destination_killed_at_any_step_leaves_one_owner() -> None:
    outcomes = []
    for step, when in kill_points():
        ledger = Ledger()
        source = source_machine(ledger)
        listener = Listener("tcp::0", timeouts=PATIENT)
        told, tell = os.pipe()

        def work(listener=listener, step=step, when=when, told=told, tell=tell) -> None:
            class Teller(Ledger):
                def changed(self, machine, owned):
                    super().changed(machine, owned)
                    if owned:
                        os.write(tell, b"owner")

            Killer(step, when)
            listener.receive(lambda config: OwnedMachine(config, Teller(), "destination"), timeout=20)

        child = in_child(work)
        address = listener.address
        listener._acceptor.close()  # the child alone listens now
        os.close(tell)
        error = attempt(source, address)
        was_killed = killed(child)
        outcome = "arrived"
        if isinstance(error, UnsettledError):
            outcome = "unsettled"
            assert not source.owned
            with pytest.raises(MigrationError, match="nobody listens"):
                error.handover.settle()
            assert not source.owned  # no answer settles nothing
            assert error.handover.state is Departure.State.IN_DOUBT
        elif error is not None:
            outcome = "stayed"
            assert source.owned
        with os.fdopen(told, "rb") as pipe:
            ran_there = pipe.read() == b"owner"
        assert not (source.owned and ran_there)
        if isinstance(error, UnsettledError):
            error.handover.force()  # an operator, who knows that the process is dead
            assert source.owned
            assert source.epoch == 9
        outcomes.append(outcome)
        if not was_killed:
            break
    assert outcomes[0] == "stayed"
    assert outcomes[-1] == "arrived"
    assert {"stayed", "unsettled", "arrived"} == set(outcomes)


def test_a_source_killed_at_any_step_leaves_one_owner() -> None:
    outcomes = []
    for step, when in kill_points():
        outcome, was_killed = source_killed(step, when)
        outcomes.append(outcome)
        if not was_killed:
            break
    assert outcomes[0] == "lost"
    assert outcomes[-1] == "arrived"
    assert "unsettled" in outcomes


def source_killed(step: int, when: str) -> tuple[str, bool]:
    ledger = Ledger()

    def make(config):
        return OwnedMachine(config, ledger, "destination")

    with Listener("tcp::0", timeouts=PATIENT) as listener:

        def work() -> None:
            Killer(step, when)
            send(source_machine(Ledger()), listener.address, policy=FixedRounds(2), timeouts=PATIENT)

        child = in_child(work)
        vm, was_killed = None, None
        while vm is None and was_killed is None:
            dead, status = os.waitpid(child, os.WNOHANG)
            # If it is dead, then all that it ever sent lies in our socket, and this is the last time.
            with contextlib.suppress(MigrationError):
                vm = listener.receive(make, timeout=0.05)
            was_killed = os.WIFSIGNALED(status) if dead else None
        if was_killed is None:
            was_killed = killed(child)
        if vm is not None:
            assert ledger.owners == ["destination"]
            return "arrived", was_killed
        assert ledger.owners == []
        if not listener.unsettled:
            return "lost", was_killed
        listener.force()  # an operator, who knows that the source is dead
        vm = listener.receive(make, timeout=20)
        assert vm.epoch == 8
        assert ledger.owners == ["destination"]
        return "unsettled", was_killed
