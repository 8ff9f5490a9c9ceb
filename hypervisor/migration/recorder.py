"""Keeps the report of a migration up to date while it goes on."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Final

from hypervisor.marks import how_many
from hypervisor.migration.report import COLUMNS, Part, Phase, Report, Round, Status
from hypervisor.state.codec import PAGE_SIZE, Encoded
from hypervisor.state.live import Received
from hypervisor.state.stream import Progress

_STATUS: Final[dict[Phase, Status]] = {
    Phase.SETUP: "setup",
    Phase.CONFIGURATION: "setup",
    Phase.MEMORY: "active",
    Phase.POSTCOPY: "postcopy-active",
}


class Recorder:
    """``progress`` gets the bytes of RAM that are through, and all of them, whenever there is news."""

    def __init__(self, report: Report, progress: Progress | None = None) -> None:
        self.report = report
        self._progress = progress
        self.begin()

    def begin(self) -> None:
        """It begins now. (A destination has waited before, and that does not count.)"""
        self.phase = Phase.SETUP
        self._began = self._entered = time.monotonic_ns()
        self._stopped: int | None = None
        self._part_ended = 0
        self._before_postcopy = 0
        report = self.report
        report.status = "setup"
        report.phases = {}
        report.downtime_parts = {}
        report.rounds = []

    def enter(self, phase: Phase) -> None:
        """End the current phase and begin ``phase``."""
        now = self._close_phase()
        report = self.report
        if self.phase is Phase.SETUP or self.phase is Phase.CONFIGURATION:
            report.setup_time = _ms(now - self._began)
        if phase is Phase.STOP:
            self._stopped = self._part_ended = now
            report.ram.precopy_bytes = report.ram.transferred
        if phase is Phase.PREPARED:
            copying = report.phases[Phase.MEMORY] + report.phases.get(Phase.FINAL_STATE, 0.0)
            report.ram.mbps = round(report.ram.transferred * 8e-3 / max(copying, 0.001), 1)
        self.phase = phase
        report.status = _STATUS.get(phase, "device")

    def part(self, part: Part) -> None:
        """A part of the downtime is over."""
        now = time.monotonic_ns()
        self.report.downtime_parts[part] = _ms(now - self._part_ended)
        self._part_ended = now

    # ---------------------------------------------------------------------- RAM, at the source

    def total(self, memory: int, versions: int) -> None:
        """So much RAM is to be copied, and of so much the last version is kept."""
        self.report.ram.total = self.report.ram.remaining = memory
        self.report.xbzrle_cache.cache_size = versions

    def begin_round(self) -> Round:
        """A further round begins."""
        self._round_began = time.monotonic_ns()
        self._round_from = self.report.ram.transferred
        self.report.ram.dirty_sync_count += 1
        return Round(number=len(self.report.rounds) + 1, start=_ms(self._round_began - self._began))

    def sent(self, done: Encoded, transferred: int, round_: Round | None = None) -> None:
        """Pages went out."""
        report = self.report
        ram = report.ram
        told = done.zero + done.raw + done.delta + done.copied + done.unchanged
        ram.duplicate += done.zero
        ram.normal += done.raw
        ram.normal_bytes = ram.normal * PAGE_SIZE
        report.xbzrle_cache.pages += done.delta
        report.copied_pages += done.copied
        report.unchanged_pages += done.unchanged
        ram.transferred = transferred
        ram.remaining = max(ram.remaining - (told + done.skipped) * PAGE_SIZE, 0)
        if round_ is not None:
            mix = round_.encodings
            mix.zero += done.zero
            mix.normal += done.raw
            mix.delta += done.delta
            mix.copied += done.copied
            mix.unchanged += done.unchanged
            round_.skipped += done.skipped
            round_.pages += told
        self._tell()

    def compressed(self, chunks: int, before: int, after: int) -> None:
        """So many chunks were compressed so far, from so many bytes to so many."""
        compression = self.report.compression
        compression.chunks = chunks
        compression.compressed_size = after
        compression.compression_rate = round(before / after, 2) if after else 0.0

    def end_round(self, round_: Round, pending: bytes | bytearray) -> None:
        """The round is over; ``pending`` marks the pages that were written to meanwhile."""
        ram = self.report.ram
        elapsed = max(time.monotonic_ns() - self._round_began, 1)
        left = how_many(pending)
        round_.time = _ms(elapsed)
        round_.bytes = ram.transferred - self._round_from
        round_.dirty_pages = left
        round_.dirty_rate = round(left * 1e9 / elapsed, 1)
        round_.mbps = round(round_.bytes * 8000 / elapsed, 1)
        # As long per page as this round took, which knows the link and what the pages are like.
        round_.expected_downtime = round(round_.time * left / max(round_.pages, 1), 3)
        round_.heat = heat(pending)
        ram.remaining = round_.remaining
        ram.dirty_pages_rate = int(round_.dirty_rate)
        self.report.expected_downtime = round_.expected_downtime
        self.report.rounds.append(round_)
        self._tell()

    def begin_last_pages(self, pending: int) -> None:
        """The guest has stopped, and so many pages must still go."""
        ram = self.report.ram
        ram.dirty_sync_count += 1
        ram.remaining = pending * PAGE_SIZE
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            ram = self.report.ram
            self._progress(ram.total - ram.remaining, ram.total)

    # ----------------------------------------------------------------- RAM, at the destination

    def copied(self, done: int, total: int, transferred: int) -> None:
        """So much of guest RAM has come."""
        ram = self.report.ram
        ram.transferred = transferred
        ram.total = total
        ram.remaining = total - done
        self._tell()

    def received(self, received: Received, rounds: int) -> None:
        """All has come."""
        report = self.report
        ram = report.ram
        ram.duplicate = received.zero
        ram.normal = received.normal
        ram.normal_bytes = received.normal * PAGE_SIZE
        report.xbzrle_cache.pages = received.delta
        report.copied_pages = received.copied
        ram.dirty_sync_count = rounds + 1

    # -------------------------------------------------------------------------------- post-copy

    def resumed(self, transferred: int) -> None:
        """The downtime, if there was one, is over: the guest has its new owner, or its old one again."""
        report = self.report
        if self._stopped is not None:
            over = self._part_ended if Part.ACTIVATION in report.downtime_parts else time.monotonic_ns()
            report.downtime = _ms(over - self._stopped)
            report.ram.downtime_bytes = max(transferred - report.ram.precopy_bytes, 0)
            self._stopped = None

    def owing(self, pages: int, transferred: int) -> None:
        """So many pages follow the guest."""
        if self.phase is not Phase.POSTCOPY:
            self.enter(Phase.POSTCOPY)
            self._before_postcopy = transferred
        self.report.status = "postcopy-active"
        self.report.ram.remaining = pages * PAGE_SIZE
        self._tell()

    def paused(self) -> None:
        """The link broke, and pages are still to come."""
        self.report.status = "postcopy-paused"
        self._tell()

    def requested(self) -> None:
        """The guest waits for a page."""
        self.report.ram.postcopy_requests += 1

    def pushed(self, done: Encoded, transferred: int) -> None:
        """Pages went after the guest, whether it asked for them or not."""
        self.report.ram.postcopy_bytes = transferred - self._before_postcopy
        self.sent(done, transferred)

    def admitted(self, left: int, transferred: int, waited: float) -> None:
        """Pages came, and so many are still to come; the guest has waited for so many seconds in all."""
        ram = self.report.ram
        ram.remaining = left * PAGE_SIZE
        ram.transferred = transferred
        ram.postcopy_bytes = transferred - self._before_postcopy
        self.report.postcopy_blocktime = _ms(int(waited * 1e9))
        self._tell()

    def recovering(self) -> None:
        """The source was given up, and the guest is brought back from its checkpoint."""
        self._recovering = time.monotonic_ns()
        self.report.status = "postcopy-recover"

    def recovered(self) -> None:
        """The guest is where it was, and has all of its pages."""
        self.report.recovery_time = _ms(time.monotonic_ns() - self._recovering)
        self.report.ram.remaining = 0
        self.finish("completed", self.report.ram.transferred)

    # -------------------------------------------------------------------------------------- end

    def finish(self, status: Status, transferred: int, error: object = None) -> None:
        """The migration is over, one way or the other."""
        now = self._close_phase()
        report = self.report
        report.status = status
        report.total_time = _ms(now - self._began)
        report.ram.transferred = transferred
        self.resumed(transferred)
        report.error_desc = None if error is None else str(error)
        self._tell()

    def _close_phase(self) -> int:
        now = time.monotonic_ns()
        phases = self.report.phases
        phases[self.phase] = round(phases.get(self.phase, 0.0) + _ms(now - self._entered), 3)
        self._entered = now
        return now


def heat(marks: bytes | bytearray) -> list[int]:
    """How many pages are marked in each of COLUMNS pieces of RAM."""
    edges = [n * len(marks) // COLUMNS for n in range(COLUMNS + 1)]
    return [end - start - marks.count(0, start, end) for start, end in pairwise(edges)]


def _ms(nanoseconds: int) -> float:
    return round(nanoseconds / 1e6, 3)
