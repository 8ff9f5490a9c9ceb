"""Continuous replication: the messages between a primary and its backup, and what may be known when.

    primary                                                backup

    alone     ── Protect, Configure ──────────────────▶    makes a machine        Setup
      │       ◀────────────────────── Welcome, Ready ──
      │       ══ a whole machine, while it runs ══════▶    fills its RAM          Synchronizing
      │       ◀──────────────────────────── Holding 0 ──
      │       ── Epoch 1 ══ an increment ═════════════▶
      │       ◀──────────────────────────── Holding 1 ──
      │         ... until an increment is small
      │ from here on output is held
      │       ── Epoch n ══ an increment ═════════════▶    could run the guest
      │       ◀──────────────────────────── Holding n ──
    (the fence: valid)                                                            Protected
      │       ── Output ..., Epoch n+1 ══ increment ══▶
      │       ◀────────────────────────── Holding n+1 ──   holds epoch n+1
      │ output of epoch n+1 is released
      │       ── Alive ───────────────────────────────▶    while there is nothing else to say
      │       ◀──────────────────────────────── Alive ──
      ▼
    (the fence: struck out)
    alone     ── Dismiss ─────────────────────────────▶    throws its copy away

An *epoch* is what the guest does between two checkpoints. The guest runs on into the next while one is under
way, *speculatively*: should the primary die, the backup goes on from the last epoch that it holds, and what
came after it has never happened. So nothing that the guest does in an epoch leaves the primary before the
backup has said Holding for it: that is the whole of output commit. What has left is never contradicted,
because the backup's copy already contains that it was done.

An increment stands on the one before (see state/stream.py), which it names by its digest; the backup applies it
only when all of it is there. The epoch's console output travels with it and is kept by the backup until
``released`` says that it has left: whatever the primary had no time to show, the backup shows. (What it showed
in its last moments may be shown again, never anything else.) Writes to persistent disks too; the primary makes
those of one epoch before it sends the next, and a backup that takes over makes those of its last epoch again.

When a link is lost, the fence decides who goes on: see ``fence``.

The design is that of Remus (Cully et al., "Remus: High Availability via Asynchronous Virtual Machine
Replication", NSDI 2008), with its network buffer and its disk buffer; ours has a console and a disk instead.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from hypervisor.state.model import U63
from hypervisor.state.sections import DIGEST_SIZE

REPLICATION_VERSION = 1

OUTPUT_MAX = 32 << 10
"""Bytes in one ``Output``."""
HELD_MAX = 64 << 20
"""Bytes of console output that a backup keeps at most."""

Name = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]


class Protect(Struct, tag=True, frozen=True):
    """The first message. Unknown fields are ignored here, so that a later version can be refused politely."""

    version: int
    identity: Name
    epoch: U63
    """The guest's, which counts its owners."""
    pairing: Name


class Holding(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """The backup could go on from here."""

    number: U63
    digest: Annotated[bytes, Meta(min_length=DIGEST_SIZE, max_length=DIGEST_SIZE)]
    """Of the stream as it was received."""


class Output(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """Console output of the epoch that comes next."""

    data: Annotated[bytes, Meta(max_length=OUTPUT_MAX)]


class Ended(Struct, frozen=True, forbid_unknown_fields=True):
    """How the guest has ended."""

    reason: Literal["exit", "reset"]
    detail: Annotated[str, Meta(max_length=1000)]
    status: Annotated[int, Meta(ge=0, le=(1 << 33) - 1)]


class Epoch(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """An increment follows."""

    number: U63
    held: bool
    """Is the output of this epoch held? If not, nobody may go on from here."""
    released: U63
    """Bytes of held console output that have left by now, since the beginning."""
    ended: Ended | None = None
    """The guest has ended in this epoch."""


class Alive(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """There is nothing else to say."""


class Dismiss(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """The backup is not needed any more; the pairing is struck out."""

    reason: Annotated[str, Meta(max_length=1000)]


ReplicationMessage = Protect | Holding | Output | Epoch | Alive | Dismiss
