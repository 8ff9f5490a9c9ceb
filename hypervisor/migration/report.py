"""What a migration did and how long it took, in the vocabulary of QEMU's ``query-migrate``.

Times are milliseconds of the host's monotonic clock, sizes are bytes. Field names have hyphens in JSON
(``total-time``), as in QEMU's QAPI schema, ``qapi/migration.json``; what that has not is in ``downtime-parts``,
``phases`` and ``rounds``. ``recorder`` fills it in.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct, field

from hypervisor.errors import HostError, StateError, printable
from hypervisor.state.codec import PAGE_SIZE

COLUMNS: Final = 256
"""Of the heat map: as many pieces of equal size is RAM divided into."""
LONGEST: Final = 64 << 20
"""Bytes of a report in a file; a longer one is none of ours."""


class Phase(enum.StrEnum):
    """The phases of a migration, in their order."""

    SETUP = "setup"
    CONFIGURATION = "configuration"
    MEMORY = "memory"
    STOP = "stop"
    FINAL_STATE = "final-state"
    PREPARED = "prepared"
    COMMIT = "commit"
    POSTCOPY = "postcopy"


class Part(enum.StrEnum):
    """What the downtime consists of, in its order."""

    STOP = "stop"
    """Until the guest stood still."""
    HARVEST = "harvest"
    """Asking the dirty log what is left."""
    LAST_PAGES = "last-pages"
    STATE = "state"
    """CPU, devices and disks: taken and sent."""
    TRANSFER = "transfer"
    """Until the destination had received and restored all of it, and said so (Prepared)."""
    ACTIVATION = "activation"
    """From Commit until the new owner has acknowledged it."""


class Pages(Struct, rename="kebab"):
    """How pages were told. Each was told in one of these ways."""

    zero: int = 0
    normal: int = 0
    """As they are."""
    delta: int = 0
    """By what has changed since they were last sent."""
    copied: int = 0
    """By the number of a page that is equal."""
    unchanged: int = 0
    """Not at all: they were written to, but hold what they held."""


class Round(Struct, rename="kebab"):
    """One round of pre-copy."""

    number: int
    """From 1; the first sends all of RAM."""
    start: float = 0.0
    """Since the migration began."""
    time: float = 0.0
    pages: int = 0
    """Pages told."""
    encodings: Pages = field(default_factory=Pages)
    skipped: int = 0
    """Pages left for the next round, because they were written to again before their turn."""
    bytes: int = 0
    mbps: float = 0.0
    dirty_pages: int = 0
    """Pages that must be sent after it."""
    dirty_rate: float = 0.0
    """Pages per second that the guest wrote to meanwhile."""
    expected_downtime: float = 0.0
    """If the guest were stopped now."""
    heat: list[int] = []
    """How many of them lie in each of COLUMNS pieces of RAM."""
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
    page_size: int = PAGE_SIZE
    dirty_sync_count: int = 0
    """Rounds, with the last pages of the stopped guest as one; stop-and-copy has no other."""
    dirty_pages_rate: int = 0
    """Pages per second that the guest dirtied in the last round."""
    mbps: float = 0.0
    """Throughput of the copying phases, in 10**6 bits per second."""
    precopy_bytes: int = 0
    """Bytes sent while the guest ran."""
    downtime_bytes: int = 0
    """Bytes sent while it stood still."""
    postcopy_bytes: int = 0
    """Bytes sent after it, while it ran at the destination."""
    postcopy_requests: int = 0
    """Pages that it waited for there."""


class Xbzrle(Struct, rename="kebab"):
    """Deltas; QEMU calls them so after their encoding."""

    cache_size: int = 0
    """Bytes of RAM whose last version is kept for them."""
    pages: int = 0


class Compression(Struct, rename="kebab"):
    """Chunks that were compressed."""

    chunks: int = 0
    compressed_size: int = 0
    compression_rate: float = 0.0
    """Bytes before, for each byte after."""


Status = Literal[
    "none",
    "setup",
    "active",
    "device",
    "postcopy-active",
    "postcopy-paused",
    "postcopy-recover",
    "completed",
    "failed",
    "unsettled",
]
"""As in QEMU, and ``unsettled``: the link broke in the handover, nobody runs the guest."""


class Report(Struct, rename="kebab"):
    """Filled in while the migration runs."""

    status: Status = "none"
    total_time: float = 0.0
    downtime: float = 0.0
    """From asking the guest to stop until its new owner has acknowledged."""
    expected_downtime: float = 0.0
    setup_time: float = 0.0
    ram: RamReport = field(default_factory=RamReport)
    xbzrle_cache: Xbzrle = field(default_factory=Xbzrle)
    compression: Compression = field(default_factory=Compression)
    copied_pages: int = 0
    """Pages told by the number of a page that is equal."""
    unchanged_pages: int = 0
    """Pages that were written to, but held what they had held."""
    postcopy_blocktime: float = 0.0
    """At the destination: how long the guest waited for pages, in all."""
    recovery_time: float | None = None
    """How long it took to bring the guest back from its checkpoint, if its source was lost."""
    downtime_parts: dict[str, float] = {}
    phases: dict[str, float] = {}
    """Duration of each phase that was entered."""
    rounds: list[Round] = []
    stop_reason: str | None = None
    """Why the policy stopped the guest."""
    error_desc: str | None = None

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    def write(self, path: Path) -> None:
        """Write it as JSON. Raises HostError."""
        try:
            path.write_bytes(self.to_json() + b"\n")
        except OSError as error:
            raise HostError(f"cannot write the report {path}: {error.strerror or error}") from None


def read_report(path: Path) -> Report:
    """A report in a file.

    Raises:
        HostError: it cannot be read.
        StateError: it is no report.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
        return msgspec.json.decode(data, type=Report)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror or error}") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StateError(f"{path}: no report of a migration: {printable(str(error))}") from None
