"""When to stop a guest that is being copied while it runs, and how fast to copy until then.

Pre-copy sends all of RAM, then what was written to meanwhile, then what was written to meanwhile, and so
on; each round is shorter than the one before as long as the link is faster than the guest writes. A
*policy* looks back at the rounds and decides before each one. To try another, write a class with a
``decide`` and give it to ``send``.

:class:`PreCopyPolicy` is that of Clark et al. (NSDI 2005): section 3.1 has the trade, 5.2 the figures on the
writable working set, 5.3 the dynamic rate limiting. The names of its limits are QEMU's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

from hypervisor.migration.report import Round


class Decision(NamedTuple):
    """What to do now."""

    stop: str | None = None
    """Stop the guest and send the rest, for this reason; None: one more round."""
    rate: float | None = None
    """Bytes per second that the next round may send; None: as many as the link takes."""


class Policy(Protocol):
    """Decides about rounds."""

    def decide(self, rounds: Sequence[Round]) -> Decision:
        """Before every round: ``rounds`` are those done; none before the first, which sends all of RAM."""
        ...


@dataclass(frozen=True)
class PreCopyPolicy:
    """Rounds until the rest is small enough, or until more of them would not make it smaller.

    Attributes:
        downtime_limit: seconds that sending the rest of RAM may take with the guest stopped.
        most_rounds: never more than so many.
        futile: rounds in a row that bring no progress; after so many the guest writes as fast as we send.
        progress: a round brings progress if it leaves less than this part of what the one before left.
        rate, increment, top_rate: to spare the link for others, bytes per second. The first round is sent
            at ``rate``; each further one at the rate at which the guest wrote during the last, and
            ``increment`` more, until that passes ``top_rate``: then the guest is stopped. ``rate=None`` takes all
            that the link gives.
    """

    downtime_limit: float = 0.03
    most_rounds: int = 30
    futile: int = 2
    progress: float = 0.9
    rate: float | None = None
    increment: float = 50e6 / 8
    top_rate: float = 500e6 / 8

    def decide(self, rounds: Sequence[Round]) -> Decision:
        if not rounds:
            return Decision(rate=self.rate)
        last = rounds[-1]
        if last.expected_downtime <= self.downtime_limit * 1000:
            return Decision("the rest is small enough")
        if len(rounds) >= self.most_rounds:
            return Decision(f"{len(rounds)} rounds were made")
        if self._is_futile(rounds):
            return Decision("the guest writes to its memory as fast as it is sent")
        if self.rate is None:
            return Decision()
        rate = max(self.rate, last.dirty_rate * last.page_size + self.increment)
        if rate > self.top_rate:
            return Decision("the guest writes to its memory faster than may be sent")
        return Decision(rate=rate)

    def _is_futile(self, rounds: Sequence[Round]) -> bool:
        left = [one.remaining for one in rounds[-self.futile - 1 :]]
        return len(left) > self.futile and all(
            after > self.progress * before for before, after in pairwise(left)
        )


@dataclass(frozen=True)
class FixedRounds:
    """A fixed number of rounds; none is stop-and-copy, in which the guest stands still all the time."""

    number: int

    def decide(self, rounds: Sequence[Round]) -> Decision:
        return Decision() if len(rounds) < self.number else Decision(f"{self.number} rounds were asked for")
