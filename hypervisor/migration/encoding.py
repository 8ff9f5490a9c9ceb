"""Which encodings pay: told by measuring the link, the compressor, and what they achieve.

A page can be told in several ways (state/pages.py), and telling it shortly takes time in which it could have
been sent. What is cheap is always done: zeros, deltas against the last version, pages that have not really
changed. Others cost more than a fast link:

* *Compression* of a chunk pays if ``1/C + r/L < 1/L`` for a compressor of C bytes per second, which leaves
  the part r of them, and a link of L. Zstandard makes about 500 MB/s, a loopback link 2000 and more.
* *Finding equal pages* by a hash costs 0.5 µs a page, which a link of 2000 MB/s carries in 2 µs. So it pays
  there only if one page in four is found, and on Gigabit Ethernet (35 µs) if one in seventy is.
  (In a tern that has run its selftest, one in seven is.)

* *Keeping versions* of all of RAM in the first round, from which later rounds take deltas, costs 0.5 to 2 µs a page,
  most of it for fresh memory of the host's. So on a fast link only those are kept that come a second time.

Several connections do not help here: one carries 4 GB/s over loopback, two and four carry no more, and
the host's processors have the guest and the receiver to run.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hypervisor.state.codec import PAGE_SIZE
from hypervisor.state.packing import compress
from hypervisor.state.sections import Readable

_WINDOW = 8 << 20
"""Bytes over which the link's rate is averaged: more than the sockets' buffers, which take some at once."""
_ENOUGH = 1 << 20
"""Bytes after which the rate is known well enough."""
_FASTEST = 1.5e9
"""Bytes per second: no compressor keeps up with such a link."""
_SLOW = 500e6
"""Bytes per second: on such a link versions are kept from the first round on."""
_PROBE = 32
"""Chunks after which compression is tried again where it did not pay."""
_HASHING = 0.5e-6
"""Seconds per page."""
_SAMPLE = 4096
"""Pages after which it is known how many equal ones there are."""


class Link:
    """Writes to a channel, and knows how fast it takes what is written."""

    def __init__(self, write: Callable[[Readable], object]) -> None:
        self._write = write
        self._bytes = 0.0
        self._time = 0.0

    def write(self, data: Readable) -> None:
        """As the channel's."""
        began = time.perf_counter()
        self._write(data)
        self._time += time.perf_counter() - began
        self._bytes += len(data)
        if self._bytes > _WINDOW:
            self._bytes /= 2
            self._time /= 2

    @property
    def slow(self) -> bool:
        """Does memory cost less than the bytes that it saves?"""
        rate = self.rate
        return rate is not None and rate < _SLOW

    @property
    def rate(self) -> float | None:
        """Bytes per second; None until enough were written."""
        return self._bytes / max(self._time, 1e-9) if self._bytes >= _ENOUGH else None


class Packer:
    """Compresses chunks while that pays."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._speed = 500e6
        self._ratio = 0.5
        self._passed = 0
        self.chunks = self.before = self.after = 0
        """Chunks that were compressed, and their bytes."""

    def __call__(self, chunk: Readable) -> bytes | None:
        """The chunk compressed; None if it is to be sent as it is."""
        if not self._worth_trying(self._link.rate):
            self._passed += 1
            return None
        self._passed = 0
        began = time.perf_counter()
        packed = compress(chunk)
        elapsed = time.perf_counter() - began
        self._speed += (len(chunk) / max(elapsed, 1e-9) - self._speed) / 4
        self._ratio += (len(packed) / len(chunk) - self._ratio) / 4
        if len(packed) >= len(chunk):
            return None
        self.chunks += 1
        self.before += len(chunk)
        self.after += len(packed)
        return packed

    def _worth_trying(self, rate: float | None) -> bool:
        if rate is None or rate > _FASTEST:
            return False
        return 1 / self._speed + self._ratio / rate < 1 / rate or self._passed >= _PROBE


class Deduplication:
    """Knows whether looking for equal pages pays."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._looked = 0
        self._found = 0

    @property
    def pays(self) -> bool:
        """On this link, with the pages seen so far?"""
        rate = self._link.rate
        if rate is None:
            return False
        likely = self._found / self._looked if self._looked >= _SAMPLE else 0.1
        return likely * PAGE_SIZE / rate > _HASHING

    def note(self, found: int, others: int) -> None:
        """What came of it: pages told by another, and those that were not."""
        self._looked += found + others
        self._found += found
