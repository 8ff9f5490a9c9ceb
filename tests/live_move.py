"""Moving a guest that runs meanwhile, for tests."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from hypervisor.errors import MigrationError
from hypervisor.machine import Stop, VirtualMachine
from hypervisor.migration import Listener, Report, SendError, Timeouts, send
from hypervisor.migration.policy import Policy
from hypervisor.migration.postcopy import Mode
from hypervisor.migration.prepaging import Ascending, Stretch

PATIENT = Timeouts(connect=20, message=60, settle=0)


class Runner:
    """A thread that runs a guest to an instruction count, or until it moves away. A context: joins at the end."""

    def __init__(self, vm: VirtualMachine, until: int | None = None) -> None:
        self.stop: Stop | None = None
        self._vm = vm
        self._thread = threading.Thread(target=self._run, args=(until,))

    def _run(self, until: int | None) -> None:
        self.stop = self._vm.run(until=until)

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._vm.running and self._thread.is_alive():
            time.sleep(0.0001)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()


def move(
    vm: VirtualMachine,
    until: int,
    *,
    mode: Mode = "precopy",
    policy: Policy | None = None,
    disks: Iterable[Path] = (),
    make: Callable[..., VirtualMachine] = VirtualMachine.create,
) -> tuple[VirtualMachine, Report]:
    """Move a guest that runs, on the way to an instruction count, to another machine of this process."""
    arrived: list[VirtualMachine] = []
    with Listener("tcp::0", timeouts=PATIENT) as listener:
        receiver = threading.Thread(
            target=lambda: arrived.append(listener.receive(lambda config: make(config, disks), timeout=60))
        )
        receiver.start()
        while not listener.waiting:
            time.sleep(0.0001)
        with Runner(vm, until) as runner:
            try:
                report = send(vm, listener.address, mode=mode, policy=policy, timeouts=PATIENT)
            except SendError:
                vm.request_stop()
                listener.close()
                receiver.join()
                raise
        receiver.join()
    assert runner.stop is not None
    assert runner.stop.reason in ("moved", "limit")
    assert not vm.owned
    return arrived[0], report


class Destination:
    """A listener that receives in a thread, and the machines that it made."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.made: list[VirtualMachine] = []
        self.arrived: VirtualMachine | None = None
        self.listener = Listener("tcp::0", timeouts=timeouts)
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        with contextlib.suppress(MigrationError):
            self.arrived = self.listener.receive(self._make, timeout=60)

    def _make(self, config) -> VirtualMachine:
        self.made.append(VirtualMachine.create(config))
        return self.made[-1]

    def join(self) -> VirtualMachine | None:
        self._thread.join()
        return self.arrived

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()
        self._thread.join()
        for vm in self.made:
            vm.close()


class Reluctant:
    """Slow at first, and begins with what is least likely to be needed: nearly all pages must be asked for."""

    def __init__(self) -> None:
        self._slow = 150
        self._asked = False

    def asked(self, page: int) -> None:
        self._asked = True

    def push(self, owed: bytearray) -> Stretch:
        last = owed.rfind(1)
        if not self._slow:
            return Ascending().push(owed)
        self._slow -= self._asked  # however long the guest takes to start
        time.sleep(0.002)
        return Stretch(last, last + 1)
