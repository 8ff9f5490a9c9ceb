"""Page serialization at the host's speed; ``hypervisor/state/pages.py`` says the same in Python.

Every function releases the GIL while it reads or writes guest memory. ``ram`` is guest RAM indexed
by guest-physical address, a page is 4096 bytes, and ``numbers`` are page numbers in strictly
ascending order, as an ``array("I")`` or a memoryview of one.
"""

from array import array

from _typeshed import ReadableBuffer, WriteableBuffer

PAGE_SIZE: int
ZERO: int
RAW: int
DELTA: int
COMPRESSED: int
IMPLEMENTATION: str

def has_crc_instruction() -> bool:
    """Does the host's CPU have SSE4.2's CRC32 instruction (and was this module compiled for it)?"""

def crc32c(data: ReadableBuffer, crc: int = 0, *, hardware: bool = True) -> int:
    """The CRC-32C (RFC 3720, appendix B.4) of ``data``, continuing from ``crc``.

    ``hardware=False`` takes the table even where the instruction exists; the answers are equal.
    """

def page_hashes(ram: ReadableBuffer, numbers: ReadableBuffer) -> array[int]:
    """XXH64 (seed 0) of each page: tells versions of a page apart, but is no proof against malice."""

def classify(ram: ReadableBuffer) -> bytearray:
    """A bitmap with a one for every page that is not all zero; page ``n`` is bit ``n % 8`` of byte ``n // 8``."""

def bound(count: int) -> int:
    """The most bytes that a chunk of ``count`` pages can have."""

def encode(ram: ReadableBuffer, numbers: ReadableBuffer, out: WriteableBuffer) -> int:
    """Describe the pages ``numbers`` of ``ram`` as one chunk at the start of ``out``; return its length.

    Raises:
        ValueError: ``out`` has less than ``bound(len(numbers))`` bytes, a number is outside RAM or
            not above the one before it.
    """

def inspect(chunk: ReadableBuffer, pages: int) -> tuple[int, int, int, int]:
    """Check a chunk for a RAM of ``pages`` pages and change nothing.

    Returns the number of zero pages, of raw pages, and the first and last page number (-1 if none).

    Raises:
        StateError: the chunk is malformed or names a page outside RAM.
    """

def decode(
    chunk: ReadableBuffer, ram: WriteableBuffer, seen: bytearray | None = None
) -> tuple[int, int, int, int]:
    """Write the pages of a chunk into ``ram``, after all of it passed ``inspect``; returns the same.

    ``seen`` has a byte for each page of a RAM that was all zero in the beginning: those that came are
    marked with 1, and a zero page that comes for the first time is not touched (the host need not give
    memory for it).

    Raises:
        StateError: the chunk is malformed or names a page outside RAM; nothing was written.
        ValueError: ``seen`` is of another length.
    """
