"""The primary's side of continuous replication. Read ``messages`` and ``fence`` first.

Two threads beside the guest's: one cuts epochs, sends them and releases what they held, in turn; the other
sees to it that the link is never silent for long, also while the first waits for a disk.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from hypervisor.devices.outlet import Effects, Outlet
from hypervisor.errors import HostError, HypervisorError, MigrationError
from hypervisor.migration.address import Address, parse_address
from hypervisor.migration.channel import PATIENCE, LinkError, Timeouts, connect
from hypervisor.migration.credentials import NO_CREDENTIALS, Credentials
from hypervisor.migration.protocol import Configure, Ready, Welcome
from hypervisor.migration.replication.fence import default_path, hold
from hypervisor.migration.replication.messages import (
    OUTPUT_MAX,
    REPLICATION_VERSION,
    Alive,
    Dismiss,
    Ended,
    Epoch,
    Holding,
    Output,
    Protect,
)
from hypervisor.migration.replication.report import ReplicationReport
from hypervisor.paging.absent import AbsentFrames
from hypervisor.paging.dirty import DirtyLog
from hypervisor.state.model import DiskState, MachineConfig, MachineState
from hypervisor.state.sections import Readable
from hypervisor.state.stream import (
    Changes,
    Chunk,
    Progress,
    encode_all,
    new_buffer,
    write_chunks,
    write_stream,
)

T = TypeVar("T")

SILENCE = 1.0
"""Seconds without a word after which the backup is taken for lost."""
PULSE = 0.1
"""Seconds after which something must be said."""
FREE_ROUNDS = 8
"""Epochs without held output at most, before the guest is slowed down by it."""
RETRY = 0.2
"""Seconds between two attempts at what the host refuses."""

log = logging.getLogger("hypervisor.replication")


class Machine(Protocol):
    """What replication needs of a virtual machine."""

    owned: bool

    @property
    def config(self) -> MachineConfig: ...
    @property
    def identity(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def ended(self) -> object: ...
    @property
    def instructions(self) -> int: ...
    @property
    def absent(self) -> AbsentFrames: ...
    @property
    def dirty(self) -> DirtyLog: ...
    @property
    def outlet(self) -> Outlet: ...
    @property
    def ram(self) -> memoryview: ...
    def present(self) -> bytes: ...
    def visit(self, work: Callable[[], T], /) -> T: ...
    def capture(self) -> MachineState: ...


class _Cut(NamedTuple):
    """A checkpoint, taken while the guest stood still."""

    state: MachineState
    """Its disks have only what was written in the epoch."""
    marks: bytearray
    chunks: list[Chunk]
    effects: Effects
    pause: float
    at: float


class _Start(NamedTuple):
    """What is sent first."""

    state: MachineState
    present: bytes


class Replication:
    """One guest, and its backup. ``start``, then ``dismiss`` or ``leave``; ``report`` is kept up to date."""

    def __init__(
        self,
        vm: Machine,
        address: str | Address,
        *,
        epochs: int = 20,
        fence: Path | None = None,
        timeouts: Timeouts = PATIENCE,
        silence: float = SILENCE,
        credentials: Credentials = NO_CREDENTIALS,
    ) -> None:
        """``epochs``: a second; no more are made than the backup keeps up with. ``fence``: by default one that the
        monitors of this user on this host share. ``silence``: seconds after which the backup is taken for lost.
        """
        self.address = parse_address(address)
        self.epochs = epochs
        self.report = ReplicationReport()
        self._vm = vm
        self._outlet = vm.outlet
        self._log = vm.dirty.another()
        self._fence_path = default_path(vm.identity) if fence is None else fence
        self._timeouts = timeouts
        self._silence = silence
        self._credentials = credentials
        self._pairing = secrets.token_hex(16)
        self._number = 0
        self._digest = b""
        self._released = 0
        self._complained = False
        self._in_flight: Effects | None = None
        self._last_instructions = -1
        self._buffers: list[memoryview] = []
        self._order: str | None = None
        """What the threads are asked to do: ``dismiss`` or ``leave``."""
        self._talking = threading.Lock()
        self._heard = 0.0
        self._lost: HypervisorError | None = None
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []

    # ---------------------------------------------------------------- from outside

    @property
    def active(self) -> bool:
        """Does the guest have a backup?"""
        return self.report.status == "protected"

    def start(self, progress: Progress | None = None) -> ReplicationReport:
        """Bring the backup up to date; from now on it holds the guest. The guest may run meanwhile.

        Raises:
            UsageError: that is no address, or ``credentials`` are missing that it needs.
            HostError: the fence cannot be used.
            MigrationError: anything else; the guest goes on without a backup.
        """
        vm = self._vm
        self._credentials.check(self.address)
        if not vm.owned or vm.ended is not None:
            raise MigrationError("only a guest that is here and has not ended can have a backup")
        vm.absent.complete()  # a backup of what has not come itself yet is none
        self._fence = hold(self._fence_path)
        self.report.status = "synchronizing"
        try:
            self._fence.offer(self._pairing)
            with contextlib.ExitStack() as undo:
                self._channel = undo.enter_context(connect(self.address, self._timeouts, self._credentials))
                self._introduce()
                self._synchronize(progress)
                undo.pop_all()
        except BaseException as error:
            # The backup was never valid: there is nothing to strike out.
            vm.visit(self._set_free)
            self._fence.remove()
            self.report.status, self.report.reason = "none", str(error)
            if isinstance(error, MigrationError):
                raise MigrationError(
                    f"replication to {self.address} failed: {error}; the guest has no backup"
                ) from None
            raise
        try:
            self._fence.validate()
        except HostError as error:
            self._lose(error)
            raise
        self.report.status = "protected"
        assert self._in_flight is not None
        self._let_out()  # or else its thread tries again
        self._channel.patience = self._silence
        self._heard = time.monotonic()
        for work, name in ((self._run, "epochs"), (self._pulse, "pulse")):
            self._threads.append(threading.Thread(target=work, name=name, daemon=True))
            self._threads[-1].start()
        return self.report

    def dismiss(self) -> None:
        """The guest needs no backup any more; it goes on here."""
        self._give("dismiss")

    def leave(self) -> None:
        """This monitor goes away: the backup, if it is still there, takes over, and the guest is not ours any more."""
        self._give("leave")

    def _give(self, order: str) -> None:
        if self._order is None:
            self._order = order
        for thread in self._threads:
            thread.join()

    # ---------------------------------------------------------------- setting up

    def _introduce(self) -> None:
        vm, channel = self._vm, self._channel
        channel.send(Protect(REPLICATION_VERSION, vm.identity, vm.epoch, self._pairing))
        channel.receive(Welcome)
        channel.send(Configure(vm.config))
        channel.receive(Ready)

    def _synchronize(self, progress: Progress | None) -> None:
        """Send all of the guest while it runs, then what it changed meanwhile, until that is little enough."""
        vm = self._vm
        start = vm.visit(self._begin)
        summary = write_stream(start.state, vm.ram, self._write, present=start.present, progress=progress)
        self._await_holding(summary.digest)
        for _ in range(FREE_ROUNDS):
            cut = vm.visit(self._cut)
            self._exchange(cut, held=False)
            if time.monotonic() - cut.at < 1 / self.epochs:
                break
        cut = vm.visit(self._first_held)
        self._in_flight = cut.effects
        self._exchange(cut, held=True)

    def _begin(self) -> _Start:
        self._log.start()
        self._outlet.take()
        return _Start(self._vm.capture(), self._vm.present())

    def _first_held(self) -> _Cut:
        self._vm.capture()  # whatever the devices have to do at this instant is done, and has left
        self._outlet.hold()
        return self._cut()

    # ---------------------------------------------------------------- one epoch

    def _cut(self) -> _Cut:
        """The guest stands still: take what it has become."""
        began = time.monotonic()
        vm = self._vm
        state = vm.capture()
        marks = self._log.harvest()
        chunks = list(encode_all(vm.ram, marks, self._buffer))
        effects = self._outlet.take()
        disks = tuple(
            DiskState(disk.base, written.clusters)
            for disk, written in zip(state.disks, effects.disks, strict=True)
        )
        self._last_instructions = state.clock.instructions
        now = time.monotonic()
        return _Cut(msgspec.structs.replace(state, disks=disks), marks, chunks, effects, now - began, began)

    def _buffer(self) -> memoryview:
        return self._buffers.pop() if self._buffers else new_buffer()

    def _exchange(self, cut: _Cut, *, held: bool) -> None:
        """Send an epoch, and wait until the backup holds it."""
        effects = cut.effects
        with self._talking:
            for at in range(0, len(effects.console), OUTPUT_MAX):
                self._channel.send(Output(effects.console[at : at + OUTPUT_MAX]))
            ended = effects.end
            self._channel.send(
                Epoch(
                    self._number + 1,
                    held,
                    self._released,
                    None if ended is None else Ended(ended.reason, ended.detail, ended.status),  # type: ignore[arg-type]
                )
            )
            summary = write_chunks(
                cut.state, cut.chunks, self._write, changes=Changes(self._digest, "", cut.marks)
            )
            self._number += 1
            self._await_holding(summary.digest)
        self._buffers += [chunk.buffer for chunk in cut.chunks]
        if held:
            pages = summary.zero + summary.normal
            self.report.note(pages, summary.length, cut.pause, time.monotonic() - cut.at)

    def _write(self, data: Readable) -> None:
        try:
            self._channel.write(data)
        except LinkError as error:
            # A backup that finds the stream wrong says so and closes; that is the better message.
            raise MigrationError(self._channel.last_words() or str(error)) from None

    def _await_holding(self, digest: bytes) -> None:
        holding = self._channel.receive(Holding)
        if (holding.number, holding.digest) != (self._number, digest):
            raise MigrationError("the backup holds something else than what was sent")
        self._digest = digest
        self._heard = time.monotonic()

    def _let_out(self) -> bool:
        """The backup holds what is in flight: it may leave. False if a disk cannot be written now."""
        if self._in_flight is not None:
            try:
                self._outlet.release(self._in_flight)
            except OSError as error:
                if not self._complained:
                    self._complained = True
                    log.warning("a disk cannot be written (%s): what the guest says is held", error.strerror)
                return False
            self._released += len(self._in_flight.console)
            self._in_flight = None
        return True

    # ---------------------------------------------------------------- the threads

    def _run(self) -> None:
        try:
            reason = self._serve()
        except HypervisorError as error:
            self._lose(self._lost or error)
        except BaseException as error:
            self._lose(MigrationError(f"a defect of ours: {error!r}"))
            raise
        else:
            self._part(reason)
        finally:
            self._done.set()
            self._channel.close()

    def _serve(self) -> str:
        """Epochs, until there are to be no more; says why."""
        period = 1 / self.epochs
        due = time.monotonic() + period
        while True:
            ended = self._outlet.wait_for_end(max(due - time.monotonic(), 0))
            due = max(due + period, time.monotonic())
            if self._lost is not None:
                raise self._lost
            order = self._order
            if not self._let_out() and order is None:
                time.sleep(RETRY)
                continue
            cut = self._vm.visit(self._cut_if_changed)
            if cut is not None:
                self._in_flight = cut.effects
                self._exchange(cut, held=True)
                self._let_out()
                ended = cut.effects.end is not None
            if ended:
                return "ended"
            if order is not None:
                return order

    def _cut_if_changed(self) -> _Cut | None:
        still = self._vm.instructions == self._last_instructions
        cut = self._cut()
        if still and not cut.chunks and not cut.effects.any:
            return None
        return cut

    def _pulse(self) -> None:
        while not self._done.wait(PULSE):
            if time.monotonic() - self._heard < PULSE or not self._talking.acquire(timeout=PULSE):
                continue
            try:
                self._channel.send(Alive())
                self._channel.receive(Alive)
                self._heard = time.monotonic()
            except HypervisorError as error:
                if not self._done.is_set():
                    self._lost = error
                return
            finally:
                self._talking.release()

    # ---------------------------------------------------------------- the end

    def _part(self, reason: str) -> None:
        """The backup is there, and the pairing ends in order."""
        if reason == "leave":
            self._vm.visit(self._disown)
            self._fence.close()
            self.report.status = "left"
            return
        self._go_alone()
        text = "the guest has ended" if reason == "ended" else "it is not needed any more"
        with contextlib.suppress(MigrationError), self._talking:
            self._channel.send(Dismiss(text))
        self.report.status = "ended" if reason == "ended" else "dismissed"

    def _disown(self) -> None:
        self._log.stop()
        self._vm.owned = False

    def _lose(self, error: HypervisorError) -> None:
        """The backup is lost, or we cannot go on sending to it."""
        self._channel.close()
        self.report.reason = str(error)
        if self._order == "leave":
            self._part("leave")
            return
        if self._go_alone():
            self.report.status = "alone"
            log.warning("the backup at %s is lost (%s): the guest goes on alone", self.address, error)

    def _go_alone(self) -> bool:
        """First the backup is struck out; then what is held may leave. False if there was no way to do that."""
        while True:
            try:
                self._fence.strike_out()
                self._vm.visit(self._set_free)
            except (HostError, OSError) as error:
                if not self._complained:
                    self._complained = True
                    log.warning("%s: what the guest says is held", error)
                if self._order == "leave":
                    return False
                time.sleep(RETRY)
            else:
                break
        self._fence.remove()
        return True

    def _set_free(self) -> None:
        """The guest stands still: what is held leaves, in order, and from now on all at once."""
        if self._in_flight is not None:
            self._outlet.release(self._in_flight)
            self._in_flight = None
        self._outlet.let_go()
        self._log.stop()
