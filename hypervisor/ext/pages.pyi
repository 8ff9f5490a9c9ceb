"""Page serialization at the host's speed; ``hypervisor/state/pages.py`` says the same in Python.

Every function releases the GIL while it reads or writes guest memory. ``ram`` is guest RAM indexed
by guest-physical address, a page is 4096 bytes, ``numbers`` are page numbers in strictly ascending order,
as an ``array("I")`` or a memoryview of one, and *marks* have a byte for each page.
"""

from array import array
from typing import NamedTuple

from _typeshed import ReadableBuffer, WriteableBuffer

PAGE_SIZE: int
ZERO: int
RAW: int
DELTA: int
COPY: int
IMPLEMENTATION: str

def has_crc_instruction() -> bool:
    """Does the host's CPU have SSE4.2's CRC32 instruction (and was this module compiled for it)?"""

def crc32c(data: ReadableBuffer, crc: int = 0, *, hardware: bool = True) -> int:
    """The CRC-32C (RFC 3720, appendix B.4) of ``data``, continuing from ``crc``.

    ``hardware=False`` takes the table even where the instruction exists; the answers are equal.
    """

def page_hashes(ram: ReadableBuffer, numbers: ReadableBuffer, seed: int = 0) -> array[int]:
    """XXH64 of each page: tells versions of a page apart, but is no proof against malice."""

def classify(ram: ReadableBuffer) -> bytearray:
    """A bitmap with a one for every page that is not all zero; page ``n`` is bit ``n % 8`` of byte ``n // 8``."""

def bound(count: int) -> int:
    """The most bytes that a chunk of ``count`` entries can have."""

class Contents(NamedTuple):
    """What a chunk holds: pages of each encoding, and the first and last page number (-1 if none)."""

    zero: int
    raw: int
    delta: int
    copied: int
    first: int
    last: int

class Encoded(NamedTuple):
    """What ``Encoder.encode`` did."""

    next: int
    """The next page that is wanted; the number of pages if there is none."""
    start: int
    """Where the chunk begins in ``out``."""
    length: int
    zero: int
    raw: int
    delta: int
    copied: int
    unchanged: int
    """Pages that the receiver has as they are: nothing was written for them."""
    skipped: int

class Encoder:
    """Encodes the pages of one RAM, and remembers what it has told the receiver.

    The guest may write to ``ram`` meanwhile. What goes out is then what was there at some moment of each
    word; but what is remembered is exactly what went out.
    """

    def __init__(self, ram: ReadableBuffer, versions: int = 0, seed: int = 0) -> None:
        """``versions``: for how many pages the last version is kept, to tell the next by a delta.
        ``seed``: of the hashes by which equal pages are found.
        """

    def encode(
        self,
        wanted: ReadableBuffer,
        first: int,
        out: WriteableBuffer,
        *,
        skip: ReadableBuffer | None = None,
        present: ReadableBuffer | None = None,
        until: int | None = None,
        remember: bool = False,
        dedupe: bool = False,
    ) -> Encoded:
        """Encode pages marked in ``wanted``, from ``first`` on, as one chunk in ``out``, as many as fit.

        Marks in ``skip``: leave them out after all. No mark in ``present``: the page is zero, do not look. (Reading
        memory that was never written to would make the host provide it.) ``until``: look no further than before this
        page, which then is ``next`` if all is done. ``remember``: keep versions of
        pages that go out. ``dedupe``: tell a page by another that went out with the same contents; two pages
        with equal hashes are taken for equal.

        Raises:
            ValueError: marks for another number of pages, or ``out`` is shorter than ``bound(1)``.
        """

def inspect(chunk: ReadableBuffer, pages: int) -> Contents:
    """Check a chunk for a RAM of ``pages`` pages, each of which comes once, and change nothing.

    Raises:
        StateError: the chunk is malformed, names a page outside RAM, or holds deltas or copies.
    """

def decode(
    chunk: ReadableBuffer, ram: WriteableBuffer, seen: bytearray | None = None, file: int = -1
) -> Contents:
    """Write the pages of a chunk into ``ram``, after all of it passed ``inspect``; returns the same.

    ``seen`` has marks for a RAM that was all zero in the beginning: pages that came are marked with 1, and a
    zero page that comes for the first time is not touched (the host need not give memory for it). With them
    pages may come again, so deltas and copies are read, too. ``file``: the descriptor of the file that ``ram`` is a
    shared mapping of, if it is one; filling a page through it takes the host half the time.

    Raises:
        StateError: the chunk is malformed or names a page outside RAM, and nothing was written; or
            a page refers to one that has not come, and those before it were written.
        ValueError: ``seen`` is of another length.
    """
