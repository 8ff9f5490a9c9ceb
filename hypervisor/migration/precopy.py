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
from typing import Final, Self

from hypervisor.errors import MigrationError
from hypervisor.marks import both, either, how_many, without
from hypervisor.migration.channel import Channel
from hypervisor.migration.encoding import Deduplication, Link
from hypervisor.migration.policy import Decision, Policy
from hypervisor.migration.protocol import Departure, Frozen, Ready, RoundReceived
from hypervisor.migration.recorder import Recorder
from hypervisor.migration.report import Part, Round
from hypervisor.state.codec import PAGE_SIZE, Encoder
from hypervisor.state.journal import Journal
from hypervisor.state.live import LiveWriter
from hypervisor.state.model import MachineState
from hypervisor.state.stream import CHUNK_PAGES

VERSIONS: Final = (64 << 20) // PAGE_SIZE
"""Pages of which the last version is kept for deltas: as many as in QEMU's cache."""

PEEK: Final = 0.1
"""Seconds between two looks at what was written to again within a round. Each stops the guest for as
long as a harvest takes."""


class Answers:
    """What the destination says while RAM is on its way."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._ready = False

    def ready(self) -> None:
        """Wait until it has made a machine."""
        if not self._ready:
            self._channel.receive(Ready)
            self._ready = True

    def round_received(self, number: int) -> None:
        """Wait until it has all of this round."""
        self.ready()
        if self._channel.receive(RoundReceived).number != number:
            raise MigrationError("the destination speaks of another round than the one that was sent")


class PreCopy:
    """The rounds of one migration, and its last pages. A context: the dirty log is on inside of it."""

    def __init__(
        self,
        departure: Departure,
        out: LiveWriter,
        link: Link,
        recorder: Recorder,
        policy: Policy,
        answers: Answers,
    ) -> None:
        self._departure = departure
        self._vm = departure.vm
        self._log = self._vm.dirty.another()
        self._out = out
        self._recorder = recorder
        self._policy = policy
        self._answers = answers
        self._pages = self._vm.config.memory // PAGE_SIZE
        self._pending = bytearray(b"\1" * self._pages)
        """For each page: must it be sent (again)?"""
        self._link = link
        self._dedupe = Deduplication(link)

    def __enter__(self) -> Self:
        self._recorder.total(self._vm.config.memory, VERSIONS * PAGE_SIZE)
        self._vm.visit(self._log.start)
        return self

    def __exit__(self, *_: object) -> None:
        self._vm.visit(self._log.stop)
        self._vm.journal = None

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
        self._recorder.part(Part.HARVEST)
        self._recorder.begin_last_pages(how_many(self._pending))
        self._send_all(self._take_pending(), None, None)
        self._recorder.part(Part.LAST_PAGES)

    def checkpoint(self) -> None:
        """One more round, of RAM as it is at one moment, and the state of that moment (see ``lifeline``)."""
        state, sending, copy = self._vm.visit(self._freeze)
        round_ = self._recorder.begin_round()
        try:
            encoder = Encoder(copy.view)
            at = sending.find(1)
            while at >= 0:
                stop = min(at + CHUNK_PAGES, self._pages)
                copy.read(at, stop)
                done = self._out.pages(sending, at, until=stop, encoder=encoder)
                copy.forget(at, stop)
                self._recorder.sent(done, self._out.written, round_)
                at = sending.find(1, stop)
        finally:
            copy.end()
        self._out.end_round()
        self._out.checkpoint(state)
        self._answers.round_received(round_.number)
        self._harvest()
        self._recorder.end_round(round_, self._pending)

    def _freeze(self) -> tuple[MachineState, bytearray, Frozen]:
        """The guest stands still: what the checkpoint is."""
        vm = self._vm
        self._pending = either(self._pending, self._log.harvest())
        state = vm.capture()
        copy = vm.freeze(self._pending)
        vm.journal = Journal()
        return state, self._take_pending(), copy

    def leave_pages(self) -> bytearray:
        """The guest has stopped: marks of the pages that it has written to since, which follow it (see ``postcopy``).

        Pages that were never touched need not: a few bytes tell of any number of them that they are zero.
        """
        self._harvest()
        self._recorder.part(Part.HARVEST)
        present = self._vm.present()
        untouched, owed = without(self._pending, present), both(self._pending, present)
        self._recorder.begin_last_pages(how_many(self._pending))
        at = 0
        while at < self._pages:
            done = self._out.pages(untouched, at, present=present)
            self._recorder.sent(done, self._out.written)
            at = done.next
        self._recorder.part(Part.LAST_PAGES)
        return owed

    def _round(self, decision: Decision) -> None:
        sending = self._take_pending()
        round_ = self._recorder.begin_round()
        self._send_all(sending, round_, _Pace(decision.rate, self._out.written))
        self._out.end_round()
        self._answers.round_received(round_.number)
        self._harvest()
        self._recorder.end_round(round_, self._pending)

    def _send_all(self, sending: bytearray, round_: Round | None, pace: _Pace | None) -> None:
        present = self._vm.present() if 0 not in sending else None
        # What is written to once is written to again; of all pages, if there is room for them.
        fits = present is not None and present.count(1) <= VERSIONS
        looked = time.monotonic()
        skip = None
        at = 0
        while at < self._pages:
            if round_ is not None and time.monotonic() - looked > PEEK:
                self._harvest()
                looked = time.monotonic()
                skip = self._pending
            dedupe = self._dedupe.pays
            remember = round_ is not None and (present is None or (fits and self._link.slow))
            done = self._out.pages(sending, at, skip=skip, present=present, remember=remember, dedupe=dedupe)
            if dedupe:
                self._dedupe.note(done.copied, done.raw)
            self._recorder.sent(done, self._out.written, round_)
            at = done.next
            if pace is not None:
                pace.wait(self._out.written)

    def _harvest(self) -> None:
        """Add to the pending pages what was written to since the last harvest."""
        self._pending = either(self._pending, self._vm.visit(self._log.harvest))

    def _take_pending(self) -> bytearray:
        """The pages that are pending, of which none is any more."""
        pending, self._pending = self._pending, bytearray(self._pages)
        return pending


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
