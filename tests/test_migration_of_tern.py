"""A link that breaks, a peer that dies, in every phase of a migration: tern runs on, on exactly one side, unharmed."""

from __future__ import annotations

import functools

import pytest
from faulty_link import Direction, Fault, FaultyLink
from live_move import Destination
from other_monitor import OtherMonitor
from scripted_guest import Reference, advance, boot

from hypervisor.errors import HypervisorError
from hypervisor.machine import VirtualMachine
from hypervisor.migration import (
    Address,
    Departure,
    LinkError,
    SendError,
    Timeouts,
    UnsettledError,
    send,
)

MOVE, END = 2_950_000, 3_050_000
PATIENT = Timeouts(connect=20, message=20, settle=0)
HASTY = Timeouts(connect=5, message=0.5, settle=0)
TO_DESTINATION: Direction = "to destination"
TO_SOURCE: Direction = "to source"


@functools.cache
def reference() -> Reference:
    return Reference([MOVE, END])


def cannot_run(vm: VirtualMachine) -> bool:
    before = vm.instructions
    with pytest.raises(HypervisorError) as caught:
        vm.run(instructions=1)
    assert "\n" not in str(caught.value)
    return vm.instructions == before


def runs_on_unharmed(vm: VirtualMachine) -> bool:
    reference().check(vm)
    reference().check(advance(vm, END))
    return True


def attempt(vm: VirtualMachine, address: Address, timeouts: Timeouts) -> SendError | None:
    try:
        send(vm, address, timeouts=timeouts)
    except SendError as error:
        return error
    return None


def withdraw(error: SendError) -> None:
    """The destination may be busy with a link that fell silent, so ask again."""
    while True:
        try:
            assert error.handover.settle() is Departure.State.OWNER
        except LinkError:
            continue
        return


def hand_over(fault: Fault | None) -> str:
    """One migration over a link with a fault; returns how it went."""
    timeouts = HASTY if fault is not None and fault.kind == "stall" else PATIENT
    with advance(boot(), MOVE) as vm, Destination(timeouts) as destination:
        with FaultyLink(destination.listener.address, fault) as link:
            error = attempt(vm, link.address, timeouts)
            assert "\n" not in str(error)
            if isinstance(error, UnsettledError):
                assert cannot_run(vm)
                assert error.handover.settle_within(60) is Departure.State.GONE
            elif error is not None:
                assert "the guest is still here" in str(error)
                withdraw(error)
                assert all(not made.owned for made in destination.made)
                assert runs_on_unharmed(vm)
                return "stayed"
        arrived = destination.join()
        assert arrived is not None
        assert cannot_run(vm)
        assert runs_on_unharmed(arrived)
        return "arrived" if error is None else "settled"


@functools.cache
def carried() -> dict[Direction, int]:
    """Bytes that a migration without a fault takes, each way."""
    with advance(boot(), MOVE) as vm, Destination(PATIENT) as destination:
        with FaultyLink(destination.listener.address) as link:
            send(vm, link.address)
            destination.join()
        return dict(link.carried)


def test_without_a_fault_it_arrives() -> None:
    assert hand_over(None) == "arrived"


@pytest.mark.parametrize("kind", ["close", "reset", "stall"])
@pytest.mark.parametrize(
    ("direction", "share", "behind"),
    [
        (TO_DESTINATION, 0, 0),
        (TO_DESTINATION, 0, 5),
        (TO_SOURCE, 0, 3),
        (TO_DESTINATION, 0, 150),
        (TO_DESTINATION, 0, 400),
        (TO_DESTINATION, 0.2, 0),
        (TO_DESTINATION, 0.6, 0),
        (TO_DESTINATION, 1, -200),
        (TO_SOURCE, 1, -80),
        (TO_DESTINATION, 1, -60),
        (TO_DESTINATION, 1, -1),
        (TO_SOURCE, 1, -40),
        (TO_SOURCE, 1, -1),
    ],
)
def test_a_link_that_breaks_leaves_the_guest_on_exactly_one_side(
    direction: Direction, share: float, behind: int, kind: str
) -> None:
    count = int(carried()[direction] * share) + behind
    hand_over(Fault(direction, count, kind))


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_an_altered_bit_on_the_way_is_noticed_before_the_guest_changes_hands(share: float) -> None:
    count = int(carried()[TO_DESTINATION] * share)
    assert hand_over(Fault(TO_DESTINATION, count, "flip")) == "stayed"


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_destination_that_is_killed_while_it_receives_leaves_the_guest_here(share: float) -> None:
    with advance(boot(), MOVE) as vm, OtherMonitor() as other:

        def kill(done: int, total: int) -> None:
            if done >= share * total:
                other.kill()

        with pytest.raises(SendError, match="the guest is still here"):
            send(vm, other.expect(), progress=kill, timeouts=PATIENT)
        assert runs_on_unharmed(vm)


def test_a_destination_that_is_killed_in_the_handover_leaves_it_to_the_operator() -> None:
    """Commit was sent, and nobody can know whether the guest ran there before the process died."""
    at_commit = carried()[TO_DESTINATION] - 1
    with advance(boot(), MOVE) as vm, OtherMonitor() as other:
        with FaultyLink(_address(other.expect()), Fault(TO_DESTINATION, at_commit, "close")) as link:
            with pytest.raises(UnsettledError) as caught:
                send(vm, link.address, timeouts=PATIENT)
            assert cannot_run(vm)
        other.kill()
        with pytest.raises(LinkError):
            caught.value.handover.settle()
        assert cannot_run(vm)
        caught.value.handover.force()
        assert vm.epoch == 2
        assert runs_on_unharmed(vm)


def _address(text: str) -> Address:
    host, _, port = text.removeprefix("tcp:").rpartition(":")
    return Address(host, int(port))


def test_a_guest_whose_migration_failed_can_migrate_again() -> None:
    with advance(boot(), MOVE) as vm:
        for _ in range(2):
            with Destination(PATIENT) as destination:
                fault = Fault(TO_DESTINATION, carried()[TO_DESTINATION] // 2, "close")
                with FaultyLink(destination.listener.address, fault) as link:
                    assert attempt(vm, link.address, PATIENT) is not None
        with Destination(PATIENT) as destination:
            send(vm, destination.listener.address)
            arrived = destination.join()
            assert arrived is not None
            assert arrived.epoch == 1
            assert cannot_run(vm)
            assert runs_on_unharmed(arrived)
