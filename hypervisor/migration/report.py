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

from hypervisor.state.codec import PAGE_SIZE
from hypervisor.state.stream import Summary


class Phase(enum.StrEnum):
    """The phases of a migration, in their order."""

    SETUP = "setup"
    CONFIGURATION = "configuration"
    MEMORY = "memory"
    STOP = "stop"
    FINAL_STATE = "final-state"
    PREPARED = "prepared"
    COMMIT = "commit"


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
    page_size: int = PAGE_SIZE
    dirty_sync_count: int = 0
    """Rounds; stop-and-copy has one."""
    dirty_pages_rate: int = 0
    """Pages per second that the guest dirtied while it was being copied."""
    mbps: float = 0.0
    """Throughput of the copying phases, in 10**6 bits per second."""


class Report(Struct, rename="kebab"):
    """Filled in while the migration runs."""

    status: Literal["none", "setup", "active", "device", "completed", "failed", "unsettled"] = "none"
    """As in QEMU, and ``unsettled``: the link broke in the handover, nobody runs the guest."""
    total_time: float = 0.0
    downtime: float = 0.0
    """From stopping the guest until its new owner has acknowledged."""
    setup_time: float = 0.0
    ram: RamReport = msgspec.field(default_factory=RamReport)
    phases: dict[str, float] = {}
    """Duration of each phase that was entered."""
    error_desc: str | None = None

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2)


class Recorder:
    """Keeps a report up to date."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.begin()

    def begin(self) -> None:
        """It begins now. (A destination has waited before, and that does not count.)"""
        self.phase = Phase.SETUP
        self._began = self._entered = time.monotonic_ns()
        self._stopped: int | None = None
        self.report.status = "setup"
        self.report.phases = {}

    def enter(self, phase: Phase) -> None:
        """End the current phase and begin ``phase``."""
        now = self._close_phase()
        report = self.report
        if self.phase is Phase.SETUP or self.phase is Phase.CONFIGURATION:
            report.setup_time = _ms(now - self._began)
        if phase is Phase.STOP:
            self._stopped = now
        self.phase = phase
        report.status = {Phase.SETUP: "setup", Phase.CONFIGURATION: "setup", Phase.MEMORY: "active"}.get(
            phase, "device"
        )  # type: ignore[assignment]

    def copied(self, done: int, total: int, transferred: int) -> None:
        """So much of guest RAM is through."""
        self.report.ram.transferred = transferred
        self.report.ram.total = total
        self.report.ram.remaining = total - done

    def summary(self, summary: Summary) -> None:
        """RAM is through."""
        ram = self.report.ram
        ram.duplicate = summary.zero
        ram.normal = summary.normal
        ram.normal_bytes = summary.normal * PAGE_SIZE
        ram.dirty_sync_count = 1
        elapsed = time.monotonic_ns() - self._entered
        ram.mbps = round(summary.length * 8000 / max(elapsed, 1), 1)

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
