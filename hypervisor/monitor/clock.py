"""Virtual time, in nanoseconds since boot.

Under the *exact* clock time is the number of retired guest instructions, ten nanoseconds each, plus what
was skipped while the guest was idle: the same guest with the same inputs lives through the same times,
bit for bit. Under the *wall* clock it is the host's, less the times when the machine was stopped.
"""

from __future__ import annotations

import time

from hypervisor.ext.cpu import Cpu

NS_PER_INSTRUCTION = 10
"""The guest sees a processor of 100 million instructions a second."""


class VirtualClock:
    """What the devices read; ``now`` is brought up to date before each call into a device."""

    def __init__(self, cpu: Cpu, *, exact: bool) -> None:
        self.cpu = cpu
        self.exact = exact
        self.now = 0
        self.skipped = 0
        """Exact: nanoseconds slept through. Wall: virtual time at the last stop."""
        self._started: int | None = None

    def update(self) -> int:
        """Bring ``now`` up to date and return it."""
        if self.exact:
            self.now = self.cpu.get_retired() * NS_PER_INSTRUCTION + self.skipped
        elif self._started is not None:
            self.now = self.skipped + time.monotonic_ns() - self._started
        return self.now

    def count_at(self, when: int) -> int:
        """The first instruction count at which ``now`` is not before ``when`` (exact clock)."""
        return max(0, -((self.skipped - when) // NS_PER_INSTRUCTION))

    def skip_to(self, when: int) -> None:
        """An idle guest sleeps until ``when`` (exact clock)."""
        self.skipped += max(0, when - self.update())
        self.update()

    def start(self) -> None:
        """The machine runs from now on."""
        self._started = time.monotonic_ns()

    def stop(self) -> None:
        """The machine is stopped: the wall's time does not pass for it."""
        self.update()
        if not self.exact:
            self.skipped = self.now
        self._started = None
