"""What a migration did and how long it took, in the vocabulary of QEMU's ``query-migrate``.

Times are milliseconds of the host's monotonic clock, sizes are bytes. Field names have hyphens in JSON
(``total-time``), as in QEMU's QAPI schema, ``qapi/migration.json``.
"""

from __future__ import annotations

import enum
import time
from typing import Literal

import msgspec
from msgspec import Struct

from hypervisor.state.codec import PAGE_SIZE, Encoded
from hypervisor.state.live import Received
from hypervisor.state.stream import Progress


class Phase(enum.StrEnum):
    """The phases of a migration, in their order."""

    SETUP = "setup"
    CONFIGURATION = "configuration"
    MEMORY = "memory"
    STOP = "stop"
    FINAL_STATE = "final-state"
    PREPARED = "prepared"
    COMMIT = "commit"


class Round(Struct, rename="kebab"):
    """One round of pre-copy."""

    number: int
    """From 1; the first sends all of RAM."""
    pages: int = 0
    """Pages told, in whatever encoding."""
    skipped: int = 0
    """Pages left for the next round, because they were written to again before their turn."""
    zero: int = 0
    normal: int = 0
    delta: int = 0
    copied: int = 0
    unchanged: int = 0
    bytes: int = 0
    time: float = 0.0
    dirty_pages: int = 0
    """Pages that must be sent after it."""
    dirty_rate: float = 0.0
    """Pages per second that the guest wrote to meanwhile."""
    mbps: float = 0.0
    expected_downtime: float = 0.0
    """If the guest were stopped now."""
    page_size: int = PAGE_SIZE

    @property
    def remaining(self) -> int:
        """Bytes of RAM that must be sent after it."""
        return self.dirty_pages * self.page_size


class RamReport(Struct, rename="kebab"):
    transferred: int = 0
    """Bytes that went over the link so far, for whatever purpose."""
    remaining: int = 0
    """Bytes of guest RAM still to go."""
    total: int = 0
    """Bytes of guest RAM."""
    duplicate: int = 0
    """Pages that were all zero."""
    normal: int = 0
    """Pages sent as they are."""
    normal_bytes: int = 0
    delta: int = 0
    """Pages told by what has changed since they were last sent."""
    copied: int = 0
    """Pages told by another that was sent before."""
    page_size: int = PAGE_SIZE
    dirty_sync_count: int = 0
    """Rounds, with the last pages of the stopped guest as one; stop-and-copy has no other."""
    dirty_pages_rate: int = 0
    """Pages per second that the guest dirtied in the last round."""
    mbps: float = 0.0
    """Throughput of the copying phases, in 10**6 bits per second."""


class Report(Struct, rename="kebab"):
    """Filled in while the migration runs."""

    status: Literal["none", "setup", "active", "device", "completed", "failed", "unsettled"] = "none"
    """As in QEMU, and ``unsettled``: the link broke in the handover, nobody runs the guest."""
    total_time: float = 0.0
    downtime: float = 0.0
    """From stopping the guest until its new owner has acknowledged."""
    expected_downtime: float = 0.0
    setup_time: float = 0.0
    ram: RamReport = msgspec.field(default_factory=RamReport)
    phases: dict[str, float] = {}
    """Duration of each phase that was entered."""
    rounds: list[Round] = []
    stop_reason: str | None = None
    """Why the policy stopped the guest."""
    error_desc: str | None = None

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2)


class Recorder:
    """Keeps a report up to date. ``progress`` gets the bytes of RAM that are through, and all of them."""

    def __init__(self, report: Report, progress: Progress | None = None) -> None:
        self.report = report
        self._progress = progress
        self.begin()

    def begin(self) -> None:
        """It begins now. (A destination has waited before, and that does not count.)"""
        self.phase = Phase.SETUP
        self._began = self._entered = time.monotonic_ns()
        self._stopped: int | None = None
        self.report.status = "setup"
        self.report.phases = {}
        self.report.rounds = []

    def enter(self, phase: Phase) -> None:
        """End the current phase and begin ``phase``."""
        now = self._close_phase()
        report = self.report
        if self.phase is Phase.SETUP or self.phase is Phase.CONFIGURATION:
            report.setup_time = _ms(now - self._began)
        if phase is Phase.STOP:
            self._stopped = now
        if phase is Phase.PREPARED:
            copying = report.phases[Phase.MEMORY] + report.phases.get(Phase.FINAL_STATE, 0.0)
            report.ram.mbps = round(report.ram.transferred * 8e-3 / max(copying, 0.001), 1)
        self.phase = phase
        report.status = {Phase.SETUP: "setup", Phase.CONFIGURATION: "setup", Phase.MEMORY: "active"}.get(
            phase, "device"
        )  # type: ignore[assignment]

    # ---------------------------------------------------------------------- RAM, at the source

    def total(self, memory: int) -> None:
        """So much RAM is to be copied."""
        self.report.ram.total = self.report.ram.remaining = memory

    def begin_round(self) -> Round:
        """A further round begins."""
        self._round_began = time.monotonic_ns()
        self._round_from = self.report.ram.transferred
        self.report.ram.dirty_sync_count += 1
        return Round(number=len(self.report.rounds) + 1)

    def sent(self, sent: Encoded, transferred: int, round_: Round | None = None) -> None:
        """Pages went out."""
        ram = self.report.ram
        told = sent.zero + sent.raw + sent.delta + sent.copied + sent.unchanged
        ram.duplicate += sent.zero
        ram.normal += sent.raw
        ram.delta += sent.delta
        ram.copied += sent.copied
        ram.normal_bytes = ram.normal * PAGE_SIZE
        ram.transferred = transferred
        ram.remaining = max(ram.remaining - (told + sent.skipped) * PAGE_SIZE, 0)
        if round_ is not None:
            round_.zero += sent.zero
            round_.normal += sent.raw
            round_.delta += sent.delta
            round_.copied += sent.copied
            round_.unchanged += sent.unchanged
            round_.skipped += sent.skipped
            round_.pages += told
        if self._progress is not None:
            self._progress(ram.total - ram.remaining, ram.total)

    def end_round(self, round_: Round, pending: int) -> None:
        """The round is over, and ``pending`` pages were written to meanwhile."""
        ram = self.report.ram
        elapsed = max(time.monotonic_ns() - self._round_began, 1)
        round_.time = _ms(elapsed)
        round_.bytes = ram.transferred - self._round_from
        round_.dirty_pages = pending
        round_.dirty_rate = round(pending * 1e9 / elapsed, 1)
        round_.mbps = round(round_.bytes * 8000 / elapsed, 1)
        # As long per page as this round took, which knows the link and what the pages are like.
        round_.expected_downtime = round(round_.time * pending / max(round_.pages, 1), 3)
        ram.remaining = round_.remaining
        ram.dirty_pages_rate = int(round_.dirty_rate)
        self.report.expected_downtime = round_.expected_downtime
        self.report.rounds.append(round_)

    def begin_last_pages(self, pending: int) -> None:
        """The guest has stopped, and so many pages must still go."""
        ram = self.report.ram
        ram.dirty_sync_count += 1
        ram.remaining = pending * PAGE_SIZE
        if self._progress is not None:
            self._progress(ram.total - ram.remaining, ram.total)

    # ----------------------------------------------------------------- RAM, at the destination

    def copied(self, done: int, total: int, transferred: int) -> None:
        """So much of guest RAM has come."""
        self.report.ram.transferred = transferred
        self.report.ram.total = total
        self.report.ram.remaining = total - done
        if self._progress is not None:
            self._progress(done, total)

    def received(self, received: Received, rounds: int) -> None:
        """All has come."""
        ram = self.report.ram
        ram.duplicate = received.zero
        ram.normal = received.normal
        ram.delta = received.delta
        ram.copied = received.copied
        ram.normal_bytes = received.normal * PAGE_SIZE
        ram.dirty_sync_count = rounds + 1

    def finish(
        self, status: Literal["completed", "failed", "unsettled"], transferred: int, error: object = None
    ) -> None:
        """The migration is over, one way or the other."""
        now = self._close_phase()
        report = self.report
        report.status = status
        report.total_time = _ms(now - self._began)
        report.ram.transferred = transferred
        if self._stopped is not None:
            report.downtime = _ms(now - self._stopped)
        report.error_desc = None if error is None else str(error)

    def _close_phase(self) -> int:
        now = time.monotonic_ns()
        phases = self.report.phases
        phases[self.phase] = round(phases.get(self.phase, 0.0) + _ms(now - self._entered), 3)
        self._entered = now
        return now


def _ms(nanoseconds: int) -> float:
    return round(nanoseconds / 1e6, 3)
