"""Keeping a guest's time and ours together, where that is wanted.

Under the exact clock an idle guest's time jumps to its next event; *paced*, the monitor waits instead
until our time has come as far. Under the wall clock there is nothing that stops a busy guest when a device
needs attention, so a small thread looks at the time and interrupts it.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from hypervisor.monitor.clock import VirtualClock
from hypervisor.monitor.loop import Monitor

TICK = 0.001
"""Seconds between two looks at the time, under the wall clock."""
CATCH_UP = 100_000_000
"""A paced guest that is further behind than this (ns) does not try to catch up."""


class Pacer:
    """Waits for an idle guest, and interrupts a busy one under the wall clock. A context around each run."""

    def __init__(self, monitor: Monitor, clock: VirtualClock) -> None:
        self.monitor = monitor
        self.clock = clock
        self.paced = False
        self._changed = threading.Condition()
        self._woken = False
        self._thread: threading.Thread | None = None
        self._done = False
        self._origin = 0
        """Host time that corresponds to virtual time 0."""

    def align(self) -> None:
        """The guest is as far as it should be now: for one that runs on after it stood still."""
        self._origin = time.monotonic_ns() - self.clock.update()

    def __enter__(self) -> Self:
        self.align()
        self.monitor.sleep = self.sleep if self.paced or not self.clock.exact else None
        if not self.clock.exact:
            self._done = False
            self._thread = threading.Thread(target=self._tick, name="wall clock", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """No thread of ours is left."""
        if self._thread is not None:
            self._done = True
            self._thread.join()
            self._thread = None

    def wake(self) -> None:
        """Something arrived for a guest that may be asleep; from any thread."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def sleep(self, duration: int | None) -> None:
        """Wait at most ``duration`` ns of virtual time (None: until woken). The loop looks again after that."""
        clock = self.clock
        now = clock.update()
        if time.monotonic_ns() - self._origin - now > CATCH_UP:
            self._origin = time.monotonic_ns() - now
        deadline = None if duration is None else now + duration
        with self._changed:
            while not self._woken:
                if deadline is None:
                    self._changed.wait()
                    continue
                left = self._origin + deadline - time.monotonic_ns()
                if left <= 0:
                    break
                self._changed.wait(left / 1e9)
            self._woken = False
        if clock.exact:
            # What we waited is what the guest slept.
            passed = time.monotonic_ns() - self._origin
            clock.skip_to(max(now, passed if deadline is None else min(passed, deadline)))

    def _tick(self) -> None:
        monitor, cpu = self.monitor, self.monitor.cpu
        while not self._done:
            time.sleep(TICK)
            if monitor.stop_wanted or cpu.stop_asked or self.clock.update() >= monitor.deadline:
                cpu.kick()
