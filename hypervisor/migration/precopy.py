"""Pre-copy: RAM travels in rounds while the guest runs (Clark et al., NSDI 2005).

The guest runs on its own thread; this module runs on that of the sender. Both meet only when the dirty
log is harvested, which is a visit (see monitor/gate.py). A round sends the pages that were written to
since they were last sent; the log is always harvested *before* a page is read, so whatever the guest
writes while it is read, or later, is found by the next harvest. What is found in the middle of a round
spares work: a page written to again before its turn came is left for the next round.

When the policy says so, the guest is stopped and its last pages are sent: then the destination has all.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from itertools import compress
from typing import Self

from hypervisor.migration.policy import Decision, Policy
from hypervisor.migration.protocol import Departure
from hypervisor.migration.report import Recorder, Round
from hypervisor.state.codec import PAGE_SIZE
from hypervisor.state.live import LiveWriter
from hypervisor.state.stream import CHUNK_PAGES

PEEK = 0.1
"""Seconds between two looks at what was written to again within a round. Each stops the guest for as
long as a harvest takes."""


class PreCopy:
    """The rounds of one migration, and its last pages. A context: the dirty log is on inside of it."""

    def __init__(self, departure: Departure, out: LiveWriter, recorder: Recorder, policy: Policy) -> None:
        self._departure = departure
        self._vm = departure.vm
        self._out = out
        self._recorder = recorder
        self._policy = policy
        self._pages = self._vm.config.memory // PAGE_SIZE
        self._pending = bytearray(b"\1" * self._pages)
        """For each page: must it be sent (again)?"""

    def __enter__(self) -> Self:
        self._recorder.total(self._vm.config.memory)
        self._vm.visit(self._vm.dirty.start)
        return self

    def __exit__(self, *_: object) -> None:
        self._vm.visit(self._vm.dirty.stop)

    def rounds(self) -> None:
        """Send rounds until the policy stops them."""
        rounds = self._recorder.report.rounds
        while True:
            decision = self._policy.decide(rounds)
            if decision.stop is not None:
                self._recorder.report.stop_reason = decision.stop
                return
            self._round(decision)

    def last_pages(self) -> None:
        """The guest has stopped: send what it has written to since."""
        self._harvest()
        numbers = self._take_pending()
        self._recorder.begin_last_pages(len(numbers))
        for start in range(0, len(numbers), CHUNK_PAGES):
            self._send(numbers[start : start + CHUNK_PAGES])

    def _round(self, decision: Decision) -> None:
        numbers = self._take_pending()
        round_ = self._recorder.begin_round()
        pace = _Pace(decision.rate, self._out.written)
        for chunk in self._turns(numbers, round_):
            self._send(chunk, round_)
            pace.wait(self._out.written)
        self._out.end_round()
        self._harvest()
        self._recorder.end_round(round_, self._pending.count(1))

    def _turns(self, numbers: memoryview, round_: Round) -> Iterator[memoryview]:
        """The pages of a round in handy portions, without those that were written to again meanwhile."""
        looked = time.monotonic()
        peeked = False
        for start in range(0, len(numbers), CHUNK_PAGES):
            if time.monotonic() - looked > PEEK:
                self._harvest()
                looked, peeked = time.monotonic(), True
            chunk = numbers[start : start + CHUNK_PAGES]
            if peeked:
                chunk = memoryview(array("I", [number for number in chunk if not self._pending[number]]))
                round_.skipped += min(CHUNK_PAGES, len(numbers) - start) - len(chunk)
            if chunk:
                yield chunk

    def _send(self, chunk: memoryview, round_: Round | None = None) -> None:
        sent = self._out.pages(chunk)
        self._recorder.sent(sent, self._out.written, round_)

    def _harvest(self) -> None:
        """Add to the pending pages what was written to since the last harvest."""
        written = self._vm.visit(self._vm.dirty.harvest)
        both = int.from_bytes(self._pending, "little") | int.from_bytes(written, "little")
        self._pending[:] = both.to_bytes(self._pages, "little")

    def _take_pending(self) -> memoryview:
        """The numbers of the pending pages, of which none is pending any more."""
        numbers = array("I", compress(range(self._pages), self._pending))
        self._pending[:] = bytes(self._pages)
        return memoryview(numbers)


class _Pace:
    """Keeps a round to its rate, in bytes per second (None: no limit)."""

    def __init__(self, rate: float | None, written: int) -> None:
        self._rate = rate
        self._from = written
        self._began = time.monotonic()

    def wait(self, written: int) -> None:
        """Wait until so many bytes may have been written."""
        if self._rate:
            due = self._began + (written - self._from) / self._rate
            time.sleep(max(due - time.monotonic(), 0))
