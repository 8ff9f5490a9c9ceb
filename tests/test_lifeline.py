"""The source is lost before the last page has come: the guest is brought back, and nobody can tell."""

from __future__ import annotations

import functools
import threading
import time
from typing import Self

import pytest
from faulty_link import Fault, FaultyLink
from scripted_guest import Reference, advance, boot
from test_postcopy import Reluctant

from hypervisor.errors import HypervisorError
from hypervisor.machine import VirtualMachine
from hypervisor.migration import Address, Listener, OwingError, Report, SendError, Timeouts, send
from hypervisor.migration.policy import Decision

HASTY = Timeouts(connect=20, message=20, settle=0)
END = 6_200_000
STARTS = (450_000, 2_450_000, 2_950_000, 5_480_000)
"""Shortly before something is typed."""


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

    def join(self) -> None:
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()
        self._thread.join()
        if self.vm is not None:
            self.vm.close()


def leave(vm: VirtualMachine, address: Address) -> tuple[Report, SendError | None]:
    """Send a guest; it executes a little between any two looks at it."""
    report = Report()

    def between(done: int, total: int) -> None:
        if vm.journal is not None and vm.owned:
            advance(vm, vm.instructions + 20_000)

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


@functools.cache
def carried(start: int) -> tuple[int, int]:
    """Bytes that go to the destination before the guest runs there, and after it."""
    with Receiver() as receiver, advance(boot(), start) as vm:
        with FaultyLink(receiver.listener.address) as link:
            report, error = leave(vm, link.address)
            assert error is None
            receiver.join()
        assert receiver.vm is not None
        assert receiver.report.recovery_time is None
        reference().check(receiver.vm)
        assert vm.console.output + receiver.vm.console.output == reference().console[END]
        assert report.ram.postcopy_bytes > 10 * 4096
        return link.carried["to destination"] - report.ram.postcopy_bytes, report.ram.postcopy_bytes


@pytest.mark.parametrize("paging", ["lazy", "traced"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("start", STARTS)
def test_a_guest_whose_source_is_lost_goes_on_from_its_checkpoint(
    start: int, share: float, paging: str
) -> None:
    before, after = carried(start)
    fault = Fault("to destination", before + int(share * after), "close")
    with Receiver(paging=paging) as receiver, advance(boot(), start) as vm:
        with FaultyLink(receiver.listener.address, fault) as link:
            _, error = leave(vm, link.address)
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
