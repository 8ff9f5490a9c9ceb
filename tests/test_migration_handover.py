"""The guest runs on exactly one side, or on none until that is settled; never on both."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Self

import msgspec
import pytest
from faulty_link import Fault, FaultyLink
from killing import Killer, in_child, kill_points, killed
from owned_machine import Ledger, OwnedMachine, source_machine
from state_samples import sample_ram, sample_state

from hypervisor.errors import HostError, MigrationError, StateError
from hypervisor.migration import (
    Address,
    Departure,
    LinkError,
    Listener,
    Report,
    SendError,
    Timeouts,
    UnsettledError,
    send,
)
from hypervisor.migration.channel import Channel, connect
from hypervisor.migration.policy import FixedRounds
from hypervisor.migration.protocol import (
    PROTOCOL_VERSION,
    Commit,
    Configure,
    Hello,
    Prepared,
    Ready,
    Refused,
    RoundReceived,
    Settle,
    Standing,
    Welcome,
)
from hypervisor.migration.report import Part
from hypervisor.state.codec import Encoder
from hypervisor.state.live import LiveWriter
from hypervisor.state.model import MachineState
from hypervisor.state.parts import Configuration

PATIENT = Timeouts(connect=20, message=20, settle=0)
"""Long enough for any machine, and no reconnection by itself: the tests do that step by step."""
HASTY = Timeouts(connect=5, message=0.15, settle=0)
"""For faults that are noticed only by waiting."""


class Destination:
    """A listener that receives in a thread."""

    def __init__(self, ledger: Ledger, timeouts: Timeouts = PATIENT) -> None:
        self.ledger = ledger
        self.made: list[OwnedMachine] = []
        self.vm: OwnedMachine | None = None
        self.error: MigrationError | None = None
        self.listener = Listener("tcp::0", timeouts=timeouts)
        self.receive()

    def receive(self) -> None:
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()
        while not self.listener.waiting and self._thread.is_alive():
            time.sleep(0.001)

    def _receive(self) -> None:
        try:
            self.vm = self.listener.receive(lambda config: self.make(config), timeout=60)  # noqa: PLW0108 - tests replace it
        except MigrationError as error:
            self.error = error

    def make(self, config) -> OwnedMachine:
        vm = OwnedMachine(config, self.ledger, f"destination {len(self.made)}")
        self.made.append(vm)
        return vm

    def join(self) -> None:
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()
        self._thread.join()


def attempt(source: OwnedMachine, address: Address, timeouts: Timeouts = PATIENT) -> SendError | None:
    try:
        send(source, address, policy=FixedRounds(2), timeouts=timeouts)
    except SendError as error:
        return error
    finally:
        assert not source.held
        assert not source.dirty.active
    return None


def withdraw(error: SendError) -> None:
    """The courtesy of an owner; the destination may be busy with a link that fell silent, so ask again."""
    for _ in range(100):
        with contextlib.suppress(LinkError):
            assert error.handover.settle() is Departure.State.OWNER
            return
    pytest.fail("the destination never answered")


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


def carried() -> dict[str, int]:
    """Bytes that a migration without a fault takes, each way."""
    ledger = Ledger()
    with Destination(ledger) as destination, FaultyLink(destination.listener.address) as link:
        assert attempt(source_machine(ledger), link.address) is None
        destination.join()
    return dict(link.carried)


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


# ---------------------------------------------------------------------------- settling, step by step


def prepared_only(destination: Destination, ledger: Ledger) -> tuple[OwnedMachine, UnsettledError]:
    """A handover whose Commit never arrived."""
    total = carried()["to destination"]
    source = source_machine(ledger)
    with FaultyLink(destination.listener.address, Fault("to destination", total - 1, "close")) as link:
        error = attempt(source, link.address)
    assert isinstance(error, UnsettledError)
    error.handover.address = destination.listener.address
    assert ledger.owners == []
    return source, error


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


# --------------------------------------------------------------------------------------- refusals


def refused(destination: Destination, ledger: Ledger, reason: str) -> None:
    source = source_machine(ledger)
    with pytest.raises(SendError, match=reason) as caught:
        send(source, destination.listener.address, timeouts=PATIENT)
    assert ledger.owners == ["source"]
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("the guest is still here")


def test_a_configuration_that_cannot_be_made_is_refused_with_the_reason() -> None:
    ledger = Ledger()

    def make(config):
        raise HostError("no memory for so large a guest")

    with Destination(ledger) as destination:
        destination.make = make  # type: ignore[method-assign]
        refused(destination, ledger, "no memory for so large a guest")
        destination.join()
        assert "stays with its source" in str(destination.error)


def test_a_defect_of_the_destination_leaves_the_guest_at_its_source() -> None:
    ledger = Ledger()
    with Listener("tcp::0", timeouts=PATIENT) as listener:
        caught: list[BaseException] = []

        def receive() -> None:
            try:
                listener.receive(lambda config: 1 // 0)
            except ZeroDivisionError as error:
                caught.append(error)

        thread = threading.Thread(target=receive)
        thread.start()
        with pytest.raises(SendError, match="defect of its own"):
            send(source_machine(ledger), listener.address, timeouts=PATIENT)
        thread.join()
    assert caught
    assert ledger.owners == ["source"]


def test_a_state_that_does_not_fit_is_refused_with_its_field() -> None:
    class Picky(OwnedMachine):
        def restore(self, state):
            raise StateError("device pit: field mode: 9 is no mode")

    ledger = Ledger()
    with Destination(ledger) as destination:
        destination.make = lambda config: Picky(config, ledger, "picky")  # type: ignore[method-assign]
        refused(destination, ledger, "device pit: field mode")


def test_a_machine_made_with_another_size_is_refused() -> None:
    ledger = Ledger()
    with Destination(ledger) as destination:
        destination.make = lambda config: OwnedMachine(config, ledger, "small", ram=bytearray(4096))  # type: ignore[method-assign]
        refused(destination, ledger, "4096 bytes of RAM")


def test_an_outdated_epoch_is_refused_and_others_may_still_come() -> None:
    ledger = Ledger()
    with Destination(ledger) as destination:
        send(source_machine(ledger), destination.listener.address, timeouts=PATIENT)
        destination.join()
        assert destination.vm is not None
        destination.vm.owned = False
        destination.receive()
        refused(destination, ledger, "epoch 7 of this guest is outdated, epoch 8 was here already")
        assert destination.listener.waiting


def test_a_monitor_that_does_not_wait_refuses() -> None:
    ledger = Ledger()
    with Destination(ledger) as destination:
        send(source_machine(ledger), destination.listener.address, timeouts=PATIENT)
        destination.join()
        assert destination.vm is not None
        destination.vm.owned = False
        refused(destination, ledger, "no one waits for a guest there")


def test_another_protocol_version_is_refused_by_both_numbers() -> None:
    with Destination(Ledger()) as destination, connect(destination.listener.address, PATIENT) as channel:
        channel.send(Hello(9, "0" * 32, 0, "0" * 32))
        with pytest.raises(
            MigrationError, match="version 9 of the migration protocol, this hypervisor version 3"
        ):
            channel.receive(Welcome)


@pytest.mark.parametrize("field", ["transfer", "identity", "epoch"])
def test_a_commit_of_another_guest_starts_nothing(field: str) -> None:
    ledger = Ledger()
    with Destination(ledger) as destination:
        good = {"transfer": "a" * 32, "identity": sample_state().identity, "epoch": 8}
        with connect(destination.listener.address, PATIENT) as channel:
            prepare_by_hand(channel)
            bad = {**good, field: 9 if field == "epoch" else "b" * 32}
            channel.send(Commit(**bad))
            with pytest.raises(MigrationError):
                channel.receive(Standing)
        assert ledger.owners == []
        assert destination.listener.unsettled
        with connect(destination.listener.address, PATIENT) as channel:
            channel.send(Settle(PROTOCOL_VERSION, good["identity"], 7, "a" * 32, withdraw=False))
            assert channel.receive(Standing).outcome == "prepared"


def prepare_by_hand(channel: Channel) -> None:
    state = sample_state()
    channel.send(Hello(PROTOCOL_VERSION, state.identity, state.epoch, "a" * 32))
    channel.receive(Welcome)
    channel.send(Configure(state.config))
    channel.receive(Ready)
    write_live(state, channel)
    channel.receive(Prepared)


def write_live(state: MachineState, channel: Channel) -> None:
    """A migration's stream, in one round."""
    head = Configuration(state.config, state.identity, state.epoch)
    out = LiveWriter(channel.write, head, Encoder(sample_ram()))
    everything = b"\1" * (state.config.memory // 4096)
    assert out.pages(everything, 0).next == len(everything)
    out.finish(state)


def test_a_state_of_another_guest_than_announced_is_refused() -> None:
    with Destination(Ledger()) as destination, connect(destination.listener.address, PATIENT) as channel:
        state = sample_state()
        channel.send(Hello(PROTOCOL_VERSION, "b" * 32, state.epoch, "a" * 32))
        channel.receive(Welcome)
        channel.send(Configure(state.config))
        channel.receive(Ready)
        with contextlib.suppress(LinkError):  # it refuses after the first section, and closes
            write_live(state, channel)
        with pytest.raises(MigrationError, match="not that of the guest that was announced"):
            channel.receive(Prepared)


def test_a_destination_that_prepared_something_else_gets_no_commit() -> None:
    from hypervisor.migration.channel import Acceptor
    from hypervisor.state.live import LiveReader

    ledger = Ledger()
    acceptor = Acceptor("tcp::0", PATIENT)
    got: list[str] = []

    def lie() -> None:
        channel = acceptor.accept(20)
        assert channel is not None
        with channel:
            hello = channel.receive(Hello)
            channel.send(Welcome(PROTOCOL_VERSION))
            channel.receive(Configure)
            channel.send(Ready())
            reader = LiveReader(channel.readinto)
            ram = memoryview(bytearray(reader.head.config.memory))
            reader.receive(ram, on_round=lambda number: channel.send(RoundReceived(number)))
            channel.send(Prepared(hello.transfer, bytes(32)))
            try:
                channel.receive(Commit)
            except MigrationError as error:
                got.append(str(error))

    thread = threading.Thread(target=lie)
    thread.start()
    with pytest.raises(SendError, match="prepared something else"):
        send(source_machine(ledger), acceptor.address, timeouts=PATIENT)
    thread.join()
    acceptor.close()
    assert got == ["the peer closed the connection"]
    assert ledger.owners == ["source"]


def test_a_foreign_guest_is_not_sent() -> None:
    vm = source_machine(Ledger())
    vm.owned = False
    with pytest.raises(MigrationError, match="not owned"):
        send(vm, "tcp::1")


def test_a_guest_that_ended_meanwhile_is_not_handed_over() -> None:
    ledger = Ledger()
    source = source_machine(ledger)

    def end(done: int, total: int) -> None:
        source.ended = "exit"

    with Destination(ledger) as destination:
        with pytest.raises(SendError, match="the guest has ended; the guest is still here"):
            send(source, destination.listener.address, progress=end, timeouts=PATIENT)
        destination.join()
    assert ledger.owners == ["source"]
    assert not source.held


def test_nobody_listening_leaves_the_guest_here() -> None:
    ledger = Ledger()
    with Listener("tcp::0") as listener:
        address = listener.address
    with pytest.raises(
        SendError, match=r"failed in phase setup: .*connection refused\); the guest is still here"
    ):
        send(source_machine(ledger), address)
    assert ledger.owners == ["source"]


def test_strangers_do_not_end_the_wait() -> None:
    ledger = Ledger()
    with Destination(ledger) as destination:
        for noise in (b"GET / HTTP/1.0\r\n\r\n", b"", bytes(8)):
            with connect(destination.listener.address, PATIENT) as channel:
                channel.write(noise)
        with connect(destination.listener.address, PATIENT) as channel:
            channel.send(Refused("what?"))
        send(source_machine(ledger), destination.listener.address, timeouts=PATIENT)
        destination.join()
    assert ledger.owners == ["destination 0"]


def test_waiting_for_a_guest_ends_with_the_timeout_or_with_close() -> None:
    with Listener("tcp::0") as listener, pytest.raises(MigrationError, match="no guest came to tcp:"):
        listener.receive(lambda config: OwnedMachine(config, Ledger(), ""), timeout=0.01)
    with Destination(Ledger()) as destination:
        destination.listener.close()
        destination.join()
        assert "closed" in str(destination.error)


# ---------------------------------------------------------------------------------------- the report


def test_the_report_speaks_qemus_language() -> None:
    ledger = Ledger()
    seen: list[tuple[int, int]] = []
    report = Report()
    there = Report()
    with Listener("tcp::0", timeouts=PATIENT) as listener:
        thread = threading.Thread(
            target=lambda: listener.receive(
                lambda config: OwnedMachine(config, ledger, "there"), report=there
            )
        )
        thread.start()
        answer = send(
            source_machine(ledger),
            listener.address,
            policy=FixedRounds(2),
            report=report,
            progress=lambda *call: seen.append(call),
        )
        thread.join()
    assert answer is report
    assert seen[-1] == (1 << 20, 1 << 20)
    plain = msgspec.json.decode(report.to_json())
    assert plain["status"] == "completed"
    assert {"total-time", "downtime", "setup-time", "ram", "phases"} <= plain.keys()
    assert plain["ram"]["total"] == 1 << 20
    # All pages, of which six are full; what was written to during each round, and until the guest stopped,
    # of that two pages as deltas against what they were a round before.
    assert (plain["ram"]["duplicate"], plain["ram"]["normal"]) == (250, 6 + 3 + 2)
    assert plain["xbzrle-cache"]["pages"] == 2
    assert plain["rounds"][1]["encodings"] == {
        "zero": 0,
        "normal": 3,
        "delta": 0,
        "copied": 0,
        "unchanged": 0,
    }
    assert sum(plain["rounds"][0]["heat"]) == 3
    assert plain["rounds"][0]["heat"][5] == plain["rounds"][0]["heat"][255] == 1
    assert plain["ram"]["precopy-bytes"] + plain["ram"]["downtime-bytes"] == plain["ram"]["transferred"]
    assert list(plain["downtime-parts"]) == [*Part]
    assert sum(plain["downtime-parts"].values()) == pytest.approx(plain["downtime"], abs=5)
    assert plain["ram"]["normal-bytes"] == 11 * 4096 < plain["ram"]["transferred"]
    assert [one["pages"] for one in plain["rounds"]] == [256, 3]
    assert [one["dirty-pages"] for one in plain["rounds"]] == [3, 3]
    assert plain["stop-reason"] == "2 rounds were asked for"
    assert plain["ram"]["dirty-sync-count"] == 3
    assert plain["ram"]["remaining"] == 0
    assert plain["total-time"] >= plain["downtime"] > 0
    assert list(plain["phases"]) == [
        "setup",
        "configuration",
        "memory",
        "stop",
        "final-state",
        "prepared",
        "commit",
    ]
    assert there.status == "completed"
    assert (there.ram.normal, there.xbzrle_cache.pages) == (11, 2)
    assert there.ram.dirty_sync_count == 3


def test_the_report_of_a_failure_says_why() -> None:
    report = Report()
    with Listener("tcp::0") as listener:
        address = listener.address
    with pytest.raises(SendError):
        send(source_machine(Ledger()), address, report=report)
    assert report.status == "failed"
    assert "refused" in str(report.error_desc)
