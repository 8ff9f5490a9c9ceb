"""Who cannot take a guest says why, and it stays with its source."""

from __future__ import annotations

import contextlib
import threading

import pytest
from handover import PATIENT, Destination
from owned_machine import Ledger, OwnedMachine, source_machine
from state_samples import sample_ram, sample_state

from hypervisor.errors import HostError, MigrationError, StateError
from hypervisor.migration import (
    LinkError,
    Listener,
    SendError,
    send,
)
from hypervisor.migration.channel import Channel, connect
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
from hypervisor.state.codec import Encoder
from hypervisor.state.live import LiveWriter
from hypervisor.state.model import MachineState
from hypervisor.state.parts import Configuration


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
