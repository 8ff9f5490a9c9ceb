"""A primary, or a backup, in a process of its own that can be killed, for tests of replication."""

from __future__ import annotations

import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from tern_guest import build
from working_guests import Work

from hypervisor.machine import VirtualMachine
from hypervisor.migration import Address, Timeouts
from hypervisor.migration.channel import Channel
from hypervisor.migration.replication.backup import Backup, Outcome
from hypervisor.migration.replication.primary import Replication

MEMORY = 8 << 20
PATIENT = Timeouts(connect=20, message=20, settle=0)
CALM = 20.0
"""Seconds of silence that mean nothing: for tests in which a host may be slow, but nobody is silent."""


SELFTEST = Work('quiet run="selftest; poweroff 5"', 1_000_000, 70_000_000)
DIRTY = Work('quiet run="dirty 25600 20000"', 1_000_000, 60_000_000)
COUNT = Work('quiet run="count 100000 1"', 500_000, 60_000_000)
SHORT = Work('quiet run="count 9 1; sum 40; count 9 1; sum 40; poweroff 5"', 500_000, 0)
"""Prints for a few epochs, and ends with status 11."""
CHURN = Work('quiet run="churn 1000000"', 1_000_000, 60_000_000)


def boot(work: Work, disks: Iterable[str] = ()) -> VirtualMachine:
    return VirtualMachine.boot(build(), memory=MEMORY, append=work.command_line, disks=disks)


class Tee(bytearray):
    """A console's output that is told to a pipe in the moment in which it leaves."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def __iadd__(self, data: bytes) -> Self:  # type: ignore[override,misc]
        rest = bytes(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        return super().__iadd__(data)


class Killer:
    """Kills its own process at the n-th step of a channel, before or after it."""

    STEPS = ("send", "receive", "write", "readinto")

    def __init__(self, step: int, when: str) -> None:
        self._left = step
        self._when = when
        self._inside = threading.local()
        for name in self.STEPS:
            setattr(Channel, name, self._wrap(getattr(Channel, name)))

    def _wrap(self, method: Callable) -> Callable:
        def step(*args, **kwargs):
            if getattr(self._inside, "yes", False):  # `send` is made of `write`
                return method(*args, **kwargs)
            self._left -= 1
            mine = self._left == 0
            if mine and self._when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            self._inside.yes = True
            try:
                return method(*args, **kwargs)
            finally:
                self._inside.yes = False
                if mine:
                    os.kill(os.getpid(), signal.SIGKILL)

        return step


class Child:
    """A process that does ``work``, which gets the descriptor of a pipe. A context: it is killed at the end."""

    def __init__(self, work: Callable[[int], object]) -> None:
        told, tell = os.pipe()
        self._told = os.fdopen(told, "rb")
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._told.close()
                work(tell)
            except BaseException as error:
                os.write(2, f"child: {error!r}\n".encode())
                os._exit(3)
            os._exit(0)
        os.close(tell)

    def kill(self) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self) -> int:
        """Wait for its end; returns its status, negative for a signal."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    @property
    def alive(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is None

    def told(self) -> bytes:
        """All that it told until its end."""
        return self._told.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._told.close()


def be_primary(
    address: Address,
    work: Work,
    fence: Path,
    *,
    disks: Iterable[str] = (),
    epochs: int = 50,
    until: int | None = None,
    silence: float = CALM,
    stopped: bool = False,
) -> Callable[[int], None]:
    """What a child does that runs a guest with a backup, and tells what leaves the guest's console.

    ``stopped``: the guest does not run before the backup has it.
    """

    def run(tell: int) -> None:
        vm = boot(work, disks)
        vm.outlet._output = Tee(tell)
        vm.run(until=work.start)
        replication = Replication(vm, address, fence=fence, epochs=epochs, timeouts=PATIENT, silence=silence)
        runner = threading.Thread(target=lambda: vm.run(until=until))
        if stopped:
            replication.start()
            runner.start()
        else:
            runner.start()
            while not vm.running:
                time.sleep(0.0001)
            replication.start()
        runner.join()
        if vm.ended is None:
            time.sleep(600)  # until it is killed
        replication.leave()  # waits until all is said

    return run


class Followed:
    """A backup in a thread of this process."""

    def __init__(
        self, fence: Path, *, disks: Iterable[str] = (), silence: float = CALM, address: str = "tcp::0"
    ) -> None:
        self._disks = tuple(disks)
        self.backup = Backup(address, fence=fence, timeouts=PATIENT, silence=silence)
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._follow)

    def start(self) -> Self:
        self._thread.start()
        return self

    def _follow(self) -> None:
        try:
            self.outcome = self.backup.follow(lambda config: VirtualMachine.create(config, self._disks))
        except BaseException as error:
            self.error = error

    def join(self, timeout: float = 60) -> Outcome:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the backup has not come to an end"
        assert self.outcome is not None, self.error
        return self.outcome

    def settle(self) -> None:
        """The primary is dead: wait until the backup has decided, or waits for another one."""
        while self._thread.is_alive() and (self.backup._current is not None or self._unheard()):
            time.sleep(0.001)

    def _unheard(self) -> bool:
        """Has a connection come that nobody has looked at?"""
        with selectors.DefaultSelector() as selector:
            selector.register(self.backup._acceptor._socket, selectors.EVENT_READ)
            return bool(selector.select(0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.backup.close()
        if self._thread.ident is not None:
            self._thread.join()
        if self.outcome is not None and self.outcome.vm is not None:
            self.outcome.vm.close()


def await_protection(fence: Path, child: Child) -> None:
    """Wait until the guest of ``child`` may be taken over."""
    while not fence.exists() or fence.read_bytes()[:1] != b"v":
        assert child.alive, "the primary has ended before its guest had a backup"
        time.sleep(0.001)


def assert_never_contradicted(shown: bytes, vm: VirtualMachine, twin: VirtualMachine) -> None:
    """What left the primary, and what the backup adds, is what the twin has printed; with no hole between.

    ``twin`` is where the backup took over.
    """
    whole = bytes(twin.console.output)
    added = bytes(vm.console.output)
    assert whole.startswith(shown)
    assert whole.endswith(added)
    assert len(whole) - len(added) <= len(shown)
