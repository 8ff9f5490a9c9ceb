"""Living through it again: from a state that a machine once had, on to where it was, with the inputs of a journal.

The guest executes the same instructions at the same virtual times, and so comes to the same state, bit for bit.
What it tells on the way was told before, and is not told twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from hypervisor.errors import StateError
from hypervisor.monitor.clock import VirtualClock
from hypervisor.monitor.loop import Monitor
from hypervisor.state.journal import Input, Moment


class Devices(Protocol):
    """What replaying needs of the machine's devices."""

    def next_deadline(self) -> int | None: ...
    def advance(self, now: int) -> None: ...
    def receive(self, data: bytes) -> None: ...


class Repetition:
    """Tells what a guest tells anew from what it repeats: ``told`` bytes, of which ``known`` are the last."""

    def __init__(self, told: int, known: bytes) -> None:
        self._unknown = told - len(known)
        self._known = known

    def new(self, data: bytes) -> bytes:
        """The part of ``data`` that was not told before. Raises StateError if something else was."""
        data = data[self._skip(len(data)) :]
        repeated = min(len(data), len(self._known))
        if data[:repeated] != self._known[:repeated]:
            raise StateError(
                "the guest tells something else than it did the first time: it cannot be replayed"
            )
        self._known = self._known[repeated:]
        return data[repeated:]

    def _skip(self, length: int) -> int:
        skipped = min(length, self._unknown)
        self._unknown -= skipped
        return skipped


class Replay:
    """Runs a monitor whose machine has just been put back to an earlier state.

    Nobody else gets at the guest meanwhile: what they would see is past.
    """

    def __init__(self, monitor: Monitor, clock: VirtualClock, devices: Devices) -> None:
        self._monitor = monitor
        self._clock = clock
        self._devices = devices

    def run(self, inputs: Iterable[Input], end: Moment) -> None:
        """Through all ``inputs``, and on to ``end``.

        Raises:
            StateError: it went another way than the first time.
        """
        monitor = self._monitor
        before_entry, sleep, stop_wanted = monitor.before_entry, monitor.sleep, monitor.stop_wanted
        monitor.before_entry, monitor.sleep = None, self._sleep
        self._stop_wanted = stop_wanted
        try:
            for each in inputs:
                self._reach(each.moment)
                self._devices.receive(each.data)
            self._reach(end)
        finally:
            monitor.before_entry, monitor.sleep = before_entry, sleep
            if self._stop_wanted:
                monitor.stop_wanted = True
                monitor.cpu.request_stop()

    def _reach(self, moment: Moment) -> None:
        monitor, clock = self._monitor, self._clock
        while monitor.cpu.get_retired() < moment.instructions:
            stop = monitor.run(moment.instructions)
            if stop.reason == "stop":
                self._stop_wanted = True  # for later: the guest is not where it was yet
            elif stop.reason != "limit":
                raise StateError(f"the guest ended ({stop.detail or stop.reason}) where it had gone on")
        self._devices.advance(clock.update())
        # What is left is sleep: no instruction was executed, but devices went on.
        target = clock.now + moment.skipped - clock.skipped
        while clock.now < target:
            deadline = self._devices.next_deadline()
            clock.skip_to(target if deadline is None else min(deadline, target))
            self._devices.advance(clock.now)
        if (monitor.cpu.get_retired(), clock.skipped) != moment:
            raise StateError("the guest slept longer than it did the first time: it cannot be replayed")

    def _sleep(self, duration: int | None) -> None:
        """An idle guest's time jumps to its next event, however far that is."""
        if duration is None:
            raise StateError("the guest waits for input where it had gone on: it cannot be replayed")
        self._clock.skip_to(self._clock.update() + duration)
