"""The backup's side of continuous replication. Read ``messages`` and ``fence`` first."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, Self, TypeVar

import msgspec

from hypervisor.devices.disk import Disks
from hypervisor.devices.outlet import Written
from hypervisor.errors import HostError, HypervisorError, MigrationError, StateError, printable
from hypervisor.migration.address import Address
from hypervisor.migration.channel import PATIENCE, Acceptor, Channel, Timeouts
from hypervisor.migration.credentials import NO_CREDENTIALS, Credentials
from hypervisor.migration.protocol import Configure, Hello, Ready, Refused, Welcome, refusal
from hypervisor.migration.replication.fence import Fence, default_path
from hypervisor.migration.replication.messages import (
    HELD_MAX,
    REPLICATION_VERSION,
    Alive,
    Dismiss,
    Ended,
    Epoch,
    Holding,
    Output,
    Protect,
)
from hypervisor.state.codec import decode
from hypervisor.state.model import DiskState, MachineConfig, MachineState
from hypervisor.state.stream import Progress, StreamReader

SILENCE = 0.5
"""Seconds without a word after which the primary is taken for lost."""
FIRST_MESSAGE = 5.0
"""Seconds that a new connection has for its first message."""
POLL = 0.005
"""Seconds between two looks at the fence."""
HOLD_DISKS = 5.0
"""Seconds for which a backup that takes over waits for disks that somebody still locks."""

log = logging.getLogger("hypervisor.replication")


class Machine(Protocol):
    """What a backup needs of a virtual machine."""

    epoch: int
    owned: bool

    @property
    def ram(self) -> memoryview: ...
    @property
    def disks(self) -> Disks: ...
    @property
    def console(self) -> Console: ...
    def check(self, state: MachineState) -> object: ...
    def restore(self, state: MachineState) -> None: ...
    def close(self) -> None: ...


class Console(Protocol):
    output: bytearray


M = TypeVar("M", bound=Machine)


class Outcome(NamedTuple):
    """What became of a guest that had its backup here."""

    what: Literal["taken over", "dismissed", "struck out"]
    """``struck out``: the primary goes on, or went on, without this backup."""
    vm: Machine | None
    """If it was taken over: owned by this monitor. Run it at once, unless it has ended."""
    ended: Ended | None
    """How the guest had ended when it was taken over."""
    reason: str
    """Why, in words."""


class Backup:
    """A place where a primary finds its backup. A context: it listens until its end."""

    def __init__(
        self,
        address: str | Address,
        *,
        fence: Path | None = None,
        timeouts: Timeouts = PATIENCE,
        silence: float = SILENCE,
        credentials: Credentials = NO_CREDENTIALS,
    ) -> None:
        """Listen at ``address``. ``fence`` must be the primary's; by default it is one that the monitors of this
        user on this host share. ``silence``: seconds after which the primary is taken for lost.

        Raises:
            UsageError: the address is open to others, and ``credentials`` do not say whom to trust.
            HostError: the port is in use, the host is not ours, a certificate cannot be read.
        """
        self._acceptor = Acceptor(address, timeouts, credentials)
        self._fence = fence
        self._timeouts = timeouts
        self._silence = silence
        self._following = threading.Lock()
        self._current: Channel | None = None
        self._closed = False

    @property
    def address(self) -> Address:
        """Where it listens, with the real port."""
        return self._acceptor.address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, also in a ``follow`` of another thread. A primary that is followed is left; the fence
        decides then.
        """
        if self._closed:
            return
        self._closed = True
        self._acceptor.wake()
        current = self._current
        if current is not None:
            current.interrupt()
        with self._following:
            self._acceptor.close()

    def follow(self, make_vm: Callable[[MachineConfig], M], *, progress: Progress | None = None) -> Outcome:
        """Wait for a primary, and hold its guest until one of the two is not needed any more.

        ``make_vm`` makes the machine that takes over, or raises a :class:`HypervisorError` that the primary's user
        will read. A primary that fails before its guest was protected is told to the log, and others may come.

        Raises:
            MigrationError: it was closed.
            HostError: the fence, or a disk of a guest that must be taken over, cannot be used.
        """
        with self._following:
            while not self._closed:
                channel = self._acceptor.accept(None)
                if channel is None:
                    continue
                with channel:
                    self._current = channel
                    try:
                        first = self._first_message(channel)
                        if isinstance(first, Hello):
                            channel.refuse(Refused("a backup waits there, for `replicate`, and no migration"))
                        elif first is not None:
                            outcome = self._serve(channel, first, make_vm, progress)
                            if outcome is not None:
                                return outcome
                    finally:
                        self._current = None
            raise MigrationError("the backup was closed")

    def _first_message(self, channel: Channel) -> Protect | Hello | None:
        """What a new connection wants; None if it is nothing that concerns us (a port scanner, say)."""
        patience = min(FIRST_MESSAGE, self._timeouts.message)
        try:
            channel.secure(patience)
            return channel.receive(Protect, Hello, timeout=patience)
        except MigrationError:
            return None

    def _serve(
        self,
        channel: Channel,
        protect: Protect,
        make_vm: Callable[[MachineConfig], Machine],
        progress: Progress | None,
    ) -> Outcome | None:
        """One primary; None if its guest was never protected."""
        copy: _Copy | None = None
        try:
            if protect.version != REPLICATION_VERSION:
                raise MigrationError(
                    f"the primary speaks version {protect.version} of replication, "
                    f"this hypervisor version {REPLICATION_VERSION}"
                )
            fence = Fence(default_path(protect.identity) if self._fence is None else self._fence)
            with fence:
                if fence.standing(protect.pairing) != "offered":
                    raise MigrationError(
                        f"fence {fence.path}: not the one that the primary has: name it on both sides"
                    )
                channel.send(Welcome(REPLICATION_VERSION))
                vm = make_vm(channel.receive(Configure).config)
                copy = _Copy(channel, vm, protect, fence)
                outcome = copy.follow(self._silence, progress)
        except HypervisorError as error:
            if copy is not None:
                copy.vm.close()
            if copy is not None and copy.protected:
                raise
            channel.refuse(refusal(error))
            log.warning("a guest could not be protected here: %s", error)
            return None
        if outcome is None or outcome.vm is None:
            copy.vm.close()
        return outcome


class _Copy:
    """The copy of one guest: the machine has the RAM of the last complete epoch, ``_state`` all the rest."""

    def __init__(self, channel: Channel, vm: Machine, protect: Protect, fence: Fence) -> None:
        self.vm = vm
        self.protected = False
        """Could this copy ever be taken over?"""
        self._channel = channel
        self._protect = protect
        self._fence = fence
        self._state: MachineState
        self._digest = b""
        self._number = 0
        self._ended: Ended | None = None
        self._written: tuple[Written, ...] = ()
        """What the last epoch wrote to disks."""
        self._console = bytearray()
        """Held console output that the primary is not known to have shown."""
        self._shown = 0
        """Bytes of held console output before that."""
        self._coming = bytearray()

    def follow(self, silence: float, progress: Progress | None) -> Outcome | None:
        """All of it, until the primary is gone or does not need us any more."""
        channel = self._channel
        self.vm.owned = False
        channel.send(Ready())
        try:
            self._take_first(progress)
            while True:
                message = channel.receive(Epoch, Output, Alive, Dismiss)
                if self.protected:
                    channel.patience = silence  # the primary knows it, and is never silent for long
                if isinstance(message, Epoch):
                    self._take_epoch(message)
                    self.protected = message.held
                elif isinstance(message, Output):
                    self._take_output(message.data)
                elif isinstance(message, Alive):
                    channel.send(Alive())
                elif isinstance(message, Dismiss):
                    return Outcome("dismissed", None, None, printable(message.reason))
        except HypervisorError as error:
            if not self.protected:
                raise
            channel.close()
            return self._decide(str(error))

    # ---------------------------------------------------------------- while the primary lives

    def _take_first(self, progress: Progress | None) -> None:
        """All of the guest, as it is sent while it runs: the ground that epochs stand on."""
        reader = StreamReader(self._channel.readinto)
        self._state = reader.read_state()
        if reader.parent is not None or self._state.identity != self._protect.identity:
            raise StateError("what came is not the guest that was announced")
        self.vm.check(self._state)
        self._digest = reader.read_ram(self.vm.ram, progress=progress).digest
        self._channel.send(Holding(0, self._digest))

    def _take_output(self, data: bytes) -> None:
        self._coming += data
        if len(self._coming) + len(self._console) > HELD_MAX:
            raise MigrationError("the primary sends output without end")

    def _take_epoch(self, epoch: Epoch) -> None:
        """Receive an epoch; when all of it is there and good, it becomes the copy, at once."""
        if epoch.number != self._number + 1 or not self._shown <= epoch.released <= self._shown + len(
            self._console
        ):
            raise MigrationError(f"epoch {epoch.number} came where {self._number + 1} was to come")
        chunks: list[bytes] = []
        reader = StreamReader(self._channel.readinto)
        state = reader.read_state()
        summary = reader.read_chunks(lambda chunk: chunks.append(bytes(chunk)))
        if reader.parent is None or reader.parent.digest != self._digest:
            raise StateError("an epoch does not stand on the one before")
        if (state.config, state.identity) != (self._state.config, self._state.identity):
            raise StateError("an epoch is of another guest")
        written = tuple(Written(disk.clusters, flush=True) for disk in state.disks)
        state = msgspec.structs.replace(state, disks=self._disks(state))
        self.vm.check(state)
        if epoch.held and not self.protected:
            # Nothing leaves the primary now, so its disks hold what they must. Later on there is no time to look.
            self.vm.disks.look()
            self.vm.disks.check(state.disks)
        for chunk in chunks:
            decode(chunk, self.vm.ram)
        self._state, self._digest, self._number = state, summary.digest, epoch.number
        self._written, self._ended = written, epoch.ended
        del self._console[: epoch.released - self._shown]
        self._shown = epoch.released
        self._console += self._coming
        self._coming.clear()
        self._channel.send(Holding(epoch.number, summary.digest))

    def _disks(self, state: MachineState) -> tuple[DiskState, ...]:
        """The disks at the end of an epoch; those that are part of the machine have changed clusters there."""
        disks = []
        for disk, before, now in zip(self.vm.disks.list, self._state.disks, state.disks, strict=True):
            if disk.persistent:
                disk.written_elsewhere(now.clusters)
                disks.append(DiskState(now.base, {}))
            else:
                disks.append(DiskState(now.base, before.clusters | now.clusters))
        return tuple(disks)

    # ---------------------------------------------------------------- when it is lost

    def _decide(self, reason: str) -> Outcome | None:
        """The link is lost: the fence says who goes on. Returns when that is clear; None if we never could."""
        asked = time.monotonic()
        told = False
        while self._fence.standing(self._protect.pairing) != "struck out":
            if self._fence.lock():
                standing = self._fence.standing(self._protect.pairing)
                if standing == "valid":
                    return self._take_over(reason)
                if standing == "offered":
                    log.warning("the primary is lost (%s) before its guest was protected", reason)
                    return None
                break
            if not told and time.monotonic() - asked > 1:
                told = True
                log.warning(
                    "the primary says nothing (%s), and still holds the fence %s: waiting",
                    reason,
                    self._fence.path,
                )
            time.sleep(POLL)
        return Outcome("struck out", None, None, f"{reason}; the primary went on alone")

    def _take_over(self, reason: str) -> Outcome:
        """Become the guest's owner, with the last complete epoch."""
        vm = self.vm
        deadline = time.monotonic() + HOLD_DISKS
        while True:
            try:
                vm.disks.hold()
                break
            except HostError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(POLL)
        for disk, written in zip(vm.disks.list, self._written, strict=True):
            try:
                disk.let_out(written)
            except OSError as error:
                raise HostError(f"disk {disk.image.path}: {error.strerror or error}") from None
        vm.restore(self._state)
        vm.epoch = self._protect.epoch + 1
        vm.owned = True
        vm.console.output += self._console
        with contextlib.suppress(HostError):
            self._fence.strike_out()
        self._fence.remove()
        return Outcome("taken over", vm, self._ended, reason)
