"""One guest and the thread that runs it, behind whatever face a person looks at it through.

The machine itself is single-threaded: somebody calls ``vm.run`` and waits. A session makes that a
thing to be started and stopped, with two promises:

* **A stop is never lost.** A request may come before the thread has entered the guest, while the guest
  is stopping by itself, or after; ``stop`` returns only when the guest stands still.
* **A stop is never left over.** If the guest stopped by itself in the moment it was asked to, the
  machine may remember the request; the runner tells such a request from a wanted one and goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from hypervisor.errors import HypervisorError, UsageError
from hypervisor.migration.replication.primary import Replication
from hypervisor.migration.settle import Handover
from hypervisor.repl.protocol import Machine, Stop
from hypervisor.state.checkpoint import Checkpoints

M = TypeVar("M", bound=Machine)

FINAL = frozenset({"exit", "reset", "triple-fault", "halted", "error"})
"""Reasons after which the guest does not go on: there is nothing left that it would execute."""

_REPEAT = 0.05
"""Seconds between repetitions of a stop request to a machine that has not stopped yet."""


class Session(Generic[M]):
    """Attributes:
    last_stop: why the guest stopped last; None before its first run.
    failure: what the running thread died of, if it did: to be raised by whoever looks next.
    unsettled: a handover to another monitor that broke, so that nobody knows who has the guest, or that has it
        without all of its pages.
    breakpoints: instruction counts at which every run stops.
    snapshots: in memory, by name.
    checkpoints: what saves the guest's changes since a file; None if there is no such file.
    replication: to the guest's backup, or how that ended; None if it never had one.
    """

    def __init__(self, vm: M | None = None) -> None:
        self._vm = vm
        self._absent = "there is no guest yet"
        self._thread: threading.Thread | None = None
        self._stop_wanted = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self.last_stop: Stop | None = None
        self.failure: BaseException | None = None
        self.unsettled: Handover | None = None
        self.breakpoints: set[int] = set()
        self.snapshots: dict[str, Any] = {}
        self.checkpoints: Checkpoints | None = None
        self.replication: Replication | None = None

    # The guest itself

    @property
    def vm(self) -> M:
        """The guest, wherever it is in its life; UsageError if it is not here."""
        if self._vm is None:
            raise UsageError(self._absent)
        return self._vm

    @property
    def present(self) -> bool:
        return self._vm is not None

    @property
    def stopped_vm(self) -> M:
        """The guest, for a command that needs it to stand still."""
        if self.running:
            raise UsageError("the guest is running: `stop` it first")
        self._raise_failure()
        return self.vm

    @property
    def sure_vm(self) -> M:
        """The guest, running or not, for a command that needs it to be surely ours."""
        self._must_be_settled()
        self._raise_failure()
        return self.vm

    @property
    def ready_vm(self) -> M:
        """The guest, for a command that lets it execute: stopped, surely ours, and not at its end."""
        vm = self.stopped_vm
        self._must_be_settled()
        if self.finished:
            raise UsageError(f"the guest has ended ({describe(self.last_stop)})")
        return vm

    @property
    def single_vm(self) -> M:
        """As ``sure_vm``, for a command that would contradict what a backup knows."""
        self.must_be_single()
        return self.sure_vm

    def must_be_single(self) -> None:
        """Raise UsageError if the guest has a backup."""
        if self.replication is not None and self.replication.active:
            raise UsageError(f"the guest has a backup at {self.replication.address}: `replicate off` first")

    def _must_be_settled(self) -> None:
        if self.unsettled is not None:
            raise UsageError(f"the guest may be running at {self.unsettled.address}: `settle` it first")

    def replace(self, vm: M | None, absent: str = "there is no guest") -> None:
        """Take another guest (after a load), or none (after a migration away; ``absent`` says where to)."""
        if self.running:
            raise UsageError("the guest is running: `stop` it first")
        self._must_be_settled()
        self._end_replication()
        if self._vm is not None and self._vm is not vm:
            self._vm.close()
        self._vm, self._absent = vm, absent
        self.last_stop, self.failure = None, None
        self.checkpoints = None
        self.snapshots.clear()
        self.breakpoints.clear()

    def close(self) -> None:
        """Stop the guest and let go of it. Never raises for what the guest did. If it has a backup, that takes over."""
        self.stop(quiet=True)
        self._end_replication()
        if self._vm is not None:
            self._vm.close()
            self._vm, self._absent = None, "there is no guest"

    def _end_replication(self) -> None:
        replication, self.replication = self.replication, None
        if replication is not None:
            replication.leave()

    # Running it

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def finished(self) -> bool:
        """Has the guest ended, so that running it again would be pointless?"""
        return not self.running and self.last_stop is not None and self.last_stop.reason in FINAL

    def on_stop(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` from the running thread whenever a run ends."""
        self._listeners.append(listener)

    def start(self, *, until: int | None = None) -> None:
        """Run the guest in the background, to instruction ``until`` or the next breakpoint."""
        vm = self.ready_vm
        if until is not None and until < vm.instructions:
            raise UsageError(f"instruction {until} is past: the guest is at {vm.instructions}")
        stops = [stop for stop in self.breakpoints if stop > vm.instructions]
        if until is not None:
            stops.append(until)
        self._stop_wanted.clear()
        self.last_stop = None
        # A daemon: if the process must end, a guest in an endless loop does not keep it.
        self._thread = threading.Thread(target=self._run, args=(vm, min(stops, default=None)), daemon=True)
        self._thread.start()

    def _run(self, vm: M, until: int | None) -> None:
        try:
            while True:
                stop = vm.run(until=until)
                if stop.reason != "stop" or self._stop_wanted.is_set():
                    break
            self.last_stop = stop
        except BaseException as error:  # noqa: BLE001 - carried to the thread that can report it
            self.failure = error
        for listener in self._listeners:
            listener()

    def stop(self, *, quiet: bool = False) -> Stop | None:
        """Stop the guest, wait until it stands still, and say why it did; at once if it already does.

        ``quiet`` leaves a failure of the running thread for later.
        """
        thread = self._thread
        while thread is not None and thread.is_alive():
            self._stop_wanted.set()
            self.vm.request_stop()
            thread.join(_REPEAT)
        if not quiet:
            self._raise_failure()
        return self.last_stop

    def wait(self, timeout: float | None = None) -> Stop | None:
        """Wait until the guest stops by itself; None if it has not after ``timeout`` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                return None
        self._raise_failure()
        return self.last_stop

    def _raise_failure(self) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure


def describe(stop: Stop | None) -> str:
    """A stop as people say it."""
    if stop is None:
        return "not run yet"
    match stop.reason:
        case "limit":
            return "reached the instruction asked for"
        case "stop":
            return "stopped on request"
        case "exit":
            return f"the guest ended with status {stop.status}"
        case _:
            return stop.detail or stop.reason


def status_of(stop: Stop | None) -> int:
    """The exit status that a guest's end stands for.

    The isa-debug-exit device decides for itself. A triple fault, after which hardware would reset the
    machine, and an error are failures; everything else (a stop, a reset, a halt for ever) is none.
    """
    if stop is None:
        return 0
    if stop.reason == "exit":
        return stop.status & 0xFF
    return HypervisorError.status if stop.reason in ("triple-fault", "error") else 0
