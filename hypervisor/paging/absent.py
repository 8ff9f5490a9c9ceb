"""Absent frames: a guest that runs before all of its RAM is here.

Nothing of the guest must reach a frame before its contents have come. Two rules see to that. The
shadow never maps an absent frame: filling an entry waits for it first, so the guest's own access is a page
fault that takes longer than others. And whatever the monitor does on the guest's behalf (walking its page
tables, reading descriptors, delivering events, string I/O) goes through ``PhysicalMemory``, which looks
there before each access; where no frame is absent, that look is one comparison with a null pointer.

Like every hidden fault, a wait takes no virtual time: under the exact clock the guest cannot tell that
its memory was somewhere else.

Where frames come from is the business of a :class:`FrameSource`: the other monitor in post-copy
migration, or a file for a machine that is restored lazily. (Xen and KVM do the same with what Linux calls
userfaultfd; this monitor has the page faults already.)
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from hypervisor.errors import FramesLostError, HypervisorError
from hypervisor.ext.memory import PhysicalMemory
from hypervisor.paging.physical import RAM_BASE

Contents = bytes | bytearray | memoryview


class FrameSource(Protocol):
    """Where absent frames come from."""

    def want(self, frame: int) -> None:
        """Somebody waits for this frame.

        Either bring it now (``AbsentFrames.admit``), or see to it that another thread does soon. Called on the
        thread that waits. What this raises means that the frame cannot be had: as ``AbsentFrames.lose``.
        """
        ...

    def finished(self) -> None:
        """All frames are here; on the thread that brought the last one."""
        ...


class AbsentFrames:
    """The absent frames of one machine. Any thread may call any method at any time.

    Attributes:
        faults: how often somebody needed a frame that was not here.
        waited: seconds that they waited in all.
        lost: why no more frames come, if so; the machine cannot go on as it is then.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self._source: FrameSource | None = None
        self._changed = threading.Condition()
        self._ended = True
        """Are all frames here, and does their source know?"""
        self.faults = 0
        self.waited = 0.0
        self.lost: HypervisorError | None = None

    @property
    def count(self) -> int:
        """Frames that are absent."""
        return self._memory.absent_count

    def map(self) -> bytes:
        """A byte for each frame of RAM, not 0 if it is absent."""
        return self._memory.absent_map()

    def begin(self, absent: Contents, source: FrameSource) -> None:
        """From now on, frames whose byte in ``absent`` is not 0 come from ``source``. The guest stands still."""
        self._source, self._ended = source, False
        self.faults, self.waited, self.lost = 0, 0.0, None
        self._memory.set_absent(absent, self._fetch)
        self._finish()

    def end(self) -> None:
        """RAM is what it is: nothing is absent, nothing is lost. The guest stands still."""
        self._memory.forget_absent()
        self._source, self._ended, self.lost = None, True, None
        self._wake()

    def admit(self, first: int, count: int, data: Contents | None = None) -> int:
        """``count`` frames have come, and this is what they hold (None: what RAM already has there).

        A frame that was here before stays as it is, for the guest may have stored to it since. Returns how
        many were absent.
        """
        admitted = self._memory.admit(first, count, data)
        self._finish()
        self._wake()
        return admitted

    def _finish(self) -> None:
        with self._changed:
            if self.count or self._source is None:
                return
            source, self._source = self._source, None
        source.finished()
        self._ended = True

    def lose(self, reason: HypervisorError) -> None:
        """No more frames come: who waits for one, or ever needs one, gets FramesLostError."""
        if self.count:
            self.lost = reason
            self._wake()

    def complete(self) -> None:
        """Wait until no frame is absent. Raises FramesLostError."""
        frame = 0
        while self.count and (frame := self.map().find(1, frame)) >= 0:
            self._memory.bring_in(RAM_BASE + (frame << 12))
        with self._changed:
            self._changed.wait_for(lambda: self._ended)

    def _fetch(self, frame: int) -> None:
        """Called by PhysicalMemory. Returns when the frame is here."""
        began = time.monotonic()
        self.faults += 1
        try:
            if self.lost is None and self._source is not None:
                try:
                    self._source.want(frame)
                except HypervisorError as error:
                    self.lose(error)
            with self._changed:
                while self._memory.is_absent(frame):
                    if self.lost is not None:
                        raise FramesLostError(f"frame {frame:#x} of the guest's RAM is lost: {self.lost}")
                    self._changed.wait()
        finally:
            self.waited += time.monotonic() - began

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
