"""Handing a guest over, in a process that has both sides, with the machine of owned_machine.py."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Self

import pytest
from faulty_link import Fault, FaultyLink
from owned_machine import Ledger, OwnedMachine, source_machine

from hypervisor.errors import MigrationError
from hypervisor.migration import (
    Address,
    Departure,
    LinkError,
    Listener,
    SendError,
    Timeouts,
    UnsettledError,
    send,
)
from hypervisor.migration.policy import FixedRounds

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


def carried() -> dict[str, int]:
    """Bytes that a migration without a fault takes, each way."""
    ledger = Ledger()
    with Destination(ledger) as destination, FaultyLink(destination.listener.address) as link:
        assert attempt(source_machine(ledger), link.address) is None
        destination.join()
    return dict(link.carried)


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
