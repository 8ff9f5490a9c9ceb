"""In which order the pages of post-copy are pushed: the destination should have them before it asks.

Every page that is asked for costs the guest a round trip, every page that was there in time nothing. A guest
that has touched one page will soon touch others near it; so *bubbling* (Hines & Gopalan, "Post-Copy Based
Live Virtual Machine Migration Using Adaptive Pre-Paging and Dynamic Self-Ballooning", VEE 2009, section 3.2)
pushes the neighbours of the page that was asked for last, on both sides, and on from there, so that the
pages sent grow like a bubble around that *pivot*. A guest works in several places at once: the last few pivots
take turns. To try another order, write a class with these two methods and give it to ``send``.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple, Protocol

PIVOTS: Final = 4
"""As many places as a guest is thought to work in at once."""
STRETCH: Final = 32
"""Pages that one side of a bubble grows by."""


class Stretch(NamedTuple):
    """Pages from ``first`` up to before ``until``; those of them that are still owed are sent."""

    first: int
    until: int


class PrePaging(Protocol):
    """Decides which pages are pushed next."""

    def asked(self, page: int) -> None:
        """The guest waits for this page; it is sent at once, whatever ``push`` would say."""
        ...

    def push(self, owed: bytearray) -> Stretch:
        """The next pages: some that are marked in ``owed``, of which there is one at least."""
        ...


class _Pivot:
    """A bubble: everything from ``low`` up to before ``high`` has been sent, or was not owed."""

    def __init__(self, page: int) -> None:
        self.low = self.high = page
        self._upward = False

    def grow(self, owed: bytearray) -> Stretch | None:
        """The stretch at its edge, above and below in turn; None if it holds all of RAM."""
        for _ in range(2):
            self._upward = not self._upward
            if self._upward:
                first = owed.find(1, self.high)
                if first >= 0:
                    self.high = min(first + STRETCH, len(owed))
                    return Stretch(first, self.high)
            else:
                last = owed.rfind(1, 0, self.low)
                if last >= 0:
                    until, self.low = last + 1, max(last + 1 - STRETCH, 0)
                    return Stretch(self.low, until)
        return None


class Bubbling:
    """Around the pages that were asked for last; upward from the beginning of RAM before there is any."""

    def __init__(self) -> None:
        self._pivots = deque([_Pivot(0)], maxlen=PIVOTS)

    def asked(self, page: int) -> None:
        self._pivots.append(_Pivot(page))

    def push(self, owed: bytearray) -> Stretch:
        while len(self._pivots) > 1:
            pivot = self._pivots[-1]
            self._pivots.rotate()
            stretch = pivot.grow(owed)
            if stretch is not None:
                return stretch
            self._pivots.remove(pivot)
        stretch = self._pivots[0].grow(owed)
        assert stretch is not None  # there is a page that is owed, and a bubble misses none
        return stretch


class Ascending:
    """From the lowest page to the highest, whatever is asked for: to compare with."""

    def asked(self, page: int) -> None:
        pass

    def push(self, owed: bytearray) -> Stretch:
        first = owed.find(1)
        return Stretch(first, first + STRETCH)
