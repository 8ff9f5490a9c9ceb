"""Moving a guest that runs meanwhile, for tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from hypervisor.machine import Stop, VirtualMachine
from hypervisor.migration import Listener, Report, SendError, Timeouts, send
from hypervisor.migration.policy import Policy
from hypervisor.migration.postcopy import Mode

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
