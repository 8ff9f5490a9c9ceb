"""What leaves the machine: the console's bytes, what is written to persistent disks, and the guest's own end.

Usually it leaves at once. It can be *held*: then the guest runs on and believes that it has left, and somebody
takes it in portions (*effects*) and releases each when nothing can come any more that would contradict it. A
guest with a backup is run so (see migration/replication): what it did since its last checkpoint may be undone
by a failure, so nobody may have seen it.

What is held stays in the order in which it came. Disks come first when it is released: a guest that prints
"saved" has saved before.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple, Protocol


class End(Protocol):
    """How the guest ended."""

    @property
    def reason(self) -> str: ...
    @property
    def detail(self) -> str: ...
    @property
    def status(self) -> int: ...


class Written(NamedTuple):
    """What was written to one disk."""

    clusters: dict[int, bytes]
    """Number -> contents."""
    flush: bool
    """The guest asked for it to reach stable storage."""


class HeldDisk(Protocol):
    """A disk whose changes can be noted, and held back where they would leave the machine."""

    def hold_back(self) -> None: ...
    def take_written(self) -> Written: ...
    def let_out(self, written: Written) -> None: ...
    def let_go(self) -> None: ...


class Effects(NamedTuple):
    """What the guest did to the world between two moments."""

    console: bytes
    disks: tuple[Written, ...]
    end: End | None

    @property
    def any(self) -> bool:
        return bool(self.console or self.end or any(disk.clusters or disk.flush for disk in self.disks))


class Outlet:
    """Where a machine's output leaves it. ``output`` is what has left by the console.

    ``hold`` and ``take`` are called while the guest stands still, ``say`` and ``await_end`` by its thread, the
    others by any.
    """

    def __init__(self, output: bytearray, disks: Sequence[HeldDisk]) -> None:
        self._output = output
        self._disks = disks
        self._changed = threading.Condition()
        self._console: bytearray | None = None
        """What is held of the console; None: nothing is held."""
        self._end: End | None = None
        self._ended = False
        """Has the guest's end left?"""

    @property
    def held(self) -> bool:
        """Is what the guest does being held?"""
        return self._console is not None

    def say(self, data: bytes) -> None:
        """The guest sends to its console."""
        if self._console is None:
            self._output += data
        else:
            self._console += data

    def await_end(self, end: End) -> None:
        """The guest has ended. Returns when that may be known."""
        with self._changed:
            self._ended = False
            if self.held:
                self._end = end
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._ended or not self.held)
            self._end = None

    def wait_for_end(self, timeout: float) -> bool:
        """Wait so many seconds at most until the guest has ended and is held for that; has it?"""
        with self._changed:
            return self._changed.wait_for(lambda: self._end is not None, timeout)

    def hold(self) -> None:
        """From now on nothing leaves. What was done before has left."""
        for disk in self._disks:
            disk.hold_back()
        with self._changed:
            self._console = bytearray()

    def take(self) -> Effects:
        """What the guest did since the last time, to be given back to ``release``. (While nothing is held, that
        is only what it wrote to disks that are part of the machine.)
        """
        with self._changed:
            console = b""
            if self._console is not None:
                console, self._console = bytes(self._console), bytearray()
            return Effects(console, tuple(disk.take_written() for disk in self._disks), self._end)

    def release(self, effects: Effects) -> None:
        """Let this leave. Raises OSError if a disk cannot be written: then nothing else has left."""
        for disk, written in zip(self._disks, effects.disks, strict=True):
            disk.let_out(written)
        self._output += effects.console
        if effects.end is not None:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def let_go(self) -> None:
        """What is held leaves, and nothing is held any more; the guest stands still. Raises OSError as ``release``."""
        if not self.held:
            return
        for disk in self._disks:
            disk.let_go()
        with self._changed:
            assert self._console is not None
            self._output += self._console
            self._console = None
            self._changed.notify_all()
