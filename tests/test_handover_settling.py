"""What becomes of a guest whose handover was cut off: asked, forced, discarded, never left in doubt for good."""

from __future__ import annotations

import threading

import msgspec
import pytest
from faulty_link import Fault, FaultyLink
from handover import PATIENT, Destination, attempt, carried, prepared_only
from owned_machine import Ledger, source_machine

from hypervisor.errors import MigrationError
from hypervisor.migration import (
    Departure,
    SendError,
    UnsettledError,
    send,
)
from hypervisor.migration.channel import Channel
from hypervisor.migration.policy import FixedRounds
from hypervisor.migration.protocol import (
    Commit,
    Prepared,
)


def test_a_guest_that_the_destination_discards_goes_back() -> None:
    ledger = Ledger()
    with Destination(ledger) as destination:
        source, error = prepared_only(destination, ledger)
        destination.listener.discard()
        assert error.handover.settle() is Departure.State.OWNER
        assert ledger.owners == ["source"]
        assert source.epoch == 7
    assert not ledger.violations


def test_a_guest_that_the_destination_forces_stays_there() -> None:
    ledger = Ledger()
    with Destination(ledger) as destination:
        _, error = prepared_only(destination, ledger)
        destination.listener.force()
        destination.join()
        assert destination.vm is not None
        assert error.handover.settle() is Departure.State.GONE
        assert ledger.owners == ["destination 0"]
        with pytest.raises(MigrationError, match="not possible, it is gone"):
            error.handover.force()
    assert not ledger.violations


def test_forced_on_both_sides_is_said_plainly() -> None:
    ledger = Ledger()
    with Destination(ledger) as destination:
        source, error = prepared_only(destination, ledger)
        destination.listener.force()
        destination.join()
        error.handover.force()
        with pytest.raises(MigrationError, match=r"runs here and at .* stop one"):
            error.handover.settle()
        assert destination.vm is not None
        assert source.epoch > destination.vm.epoch


def test_a_monitor_that_was_started_anew_settles_nothing() -> None:
    ledger = Ledger()
    with Destination(ledger) as destination:
        source, error = prepared_only(destination, ledger)
    with Destination(ledger) as other:
        error.handover.address = other.listener.address
        with pytest.raises(MigrationError, match="knows nothing of this handover"):
            error.handover.settle()
    assert not source.owned
    assert error.handover.state is Departure.State.IN_DOUBT


def test_a_lost_ack_is_settled_without_asking_anybody() -> None:
    """The link comes back within ``Timeouts.settle``: the caller of ``send`` never learns of it."""
    total = carried()["to source"]
    ledger = Ledger()
    with Destination(ledger) as destination:
        with FaultyLink(destination.listener.address, Fault("to source", total - 1, "reset")) as link:
            patient = PATIENT._replace(settle=20)
            report = send(source_machine(ledger), link.address, policy=FixedRounds(2), timeouts=patient)
        assert report.status == "completed"
        destination.join()
        assert ledger.owners == ["destination 0"]
    assert not ledger.violations


def test_an_unsettled_arrival_waits_through_several_calls() -> None:
    ledger = Ledger()
    with Destination(ledger) as destination:
        _, error = prepared_only(destination, ledger)
        destination.listener._acceptor.wake()
        assert destination.listener.unsettled
        assert error.handover.settle() is Departure.State.GONE
        destination.join()
        assert ledger.owners == ["destination 0"]


def test_a_second_attempt_replaces_what_the_first_one_left() -> None:
    """Prepared was lost, so the source went on; later it sends the guest again, as it is then."""
    total = carried()["to source"]
    ledger = Ledger()
    with Destination(ledger) as destination:
        source = source_machine(ledger)
        prepared = len(frame_of(Prepared("0" * 32, bytes(32))))
        acknowledged = total - prepared - 1  # inside of Prepared, whatever the length of the Ack
        with FaultyLink(destination.listener.address, Fault("to source", acknowledged, "close")) as link:
            assert isinstance(attempt(source, link.address), SendError)
            assert source.owned
        source.ram[4096:8192] = b"\x77" * 4096  # it ran on
        send(source, destination.listener.address, timeouts=PATIENT)
        destination.join()
        assert destination.vm is not None
        assert destination.vm.guest() == source.guest()
        assert [vm.closed for vm in destination.made] == [True, False]
        assert ledger.owners == ["destination 1"]
    assert not ledger.violations


def frame_of(message: msgspec.Struct) -> bytes:
    return bytes(8) + msgspec.msgpack.encode(message)


def test_five_migrations_in_a_row() -> None:
    ledger = Ledger()
    vm = source_machine(ledger)
    with Destination(ledger) as destination:
        for hop in range(5):
            send(vm, destination.listener.address, timeouts=PATIENT)
            destination.join()
            assert not vm.owned
            before = vm.guest()
            vm = destination.vm
            assert vm is not None
            assert vm.epoch == 8 + hop
            assert vm.guest() == before
            assert ledger.owners == [vm.name]
            if hop < 4:
                destination.receive()
    assert not ledger.violations


@pytest.mark.parametrize(("method", "owned"), [("write", True), ("receive", True), ("send", False)])
def test_an_interrupt_at_any_moment_leaves_it_clear_who_owns_the_guest(monkeypatch, method, owned) -> None:
    """Ctrl-C before Commit is just that, and the guest goes on; from Commit on it comes as unsettled."""
    ledger = Ledger()
    original = getattr(Channel, method)

    def interrupted(self, *args, **kwargs):
        if threading.current_thread() is not threading.main_thread():
            return original(self, *args, **kwargs)
        if method == "receive" and args == (Prepared,):
            raise KeyboardInterrupt
        if method == "write" and len(args[0]) > 4096:
            raise KeyboardInterrupt
        if method == "send" and isinstance(args[0], Commit):
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    source = source_machine(ledger)
    with Destination(ledger) as destination:
        monkeypatch.setattr(Channel, method, interrupted)
        with pytest.raises(KeyboardInterrupt if owned else UnsettledError) as caught:
            send(source, destination.listener.address, timeouts=PATIENT._replace(settle=20))
        monkeypatch.undo()
        assert source.owned is owned
        if not owned:
            assert ledger.owners == []
            assert caught.value.handover.settle() is Departure.State.GONE  # type: ignore[attr-defined]
            destination.join()
            assert ledger.owners == ["destination 0"]
    assert not ledger.violations
