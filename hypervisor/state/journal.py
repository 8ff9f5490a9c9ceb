"""What entered a machine from outside since a moment, and how much it has told: enough to live through it again.

Under the exact clock a machine's future depends on nothing but its state and its inputs. So its state at one
moment and the journal since make its state at any later moment (see monitor/replay.py). Inputs are what is
typed at the console; a disk's contents are part of the state, unless the disk is persistent.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from hypervisor.state.model import U63


class Moment(NamedTuple):
    """A point in a guest's time."""

    instructions: int
    skipped: int
    """Nanoseconds that it has slept until then: a guest that sleeps executes nothing, but its time goes on."""


class Input(Struct, frozen=True, forbid_unknown_fields=True):
    """Something was typed, and the guest got it at this moment of its time."""

    instructions: U63
    skipped: U63
    data: bytes

    @property
    def moment(self) -> Moment:
        return Moment(self.instructions, self.skipped)


class Journal(Struct, forbid_unknown_fields=True):
    """What happened between a machine and the world since a moment."""

    inputs: list[Input] = []
    told: U63 = 0
    """Bytes of console output."""
