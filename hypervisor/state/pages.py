"""Pages of guest RAM as bytes in a stream: the reference for ``hypervisor.ext.pages``.

A *chunk* describes some pages, in ascending order of their numbers. All numbers are little-endian::

    0   u32  count of pages            directory, 8 bytes for each page:
    4   u32  bytes of data               0  u32  page number (gpa / 4096)
    8   directory                        4  u16  encoding
    .   data, in the directory's order   6  u16  bytes of data for this page

======== ============ ==================================================================
encoding bytes        meaning
======== ============ ==================================================================
0 zero   0            the page is all zero
1 raw    4096         the page itself
2 delta  1 to 4095    (reserved) difference to the version the receiver has
3 packed 1 to 4095    (reserved) compressed
======== ============ ==================================================================

The directory comes first, and alone says how long the data must be; so a reader can refuse a bad
chunk as a whole before it has written anything. That is the promise of ``decode``.

This module favours clearness; it is used under ``HV_PURE=1`` and as the oracle in the tests. The
compiled one gives the same bytes, numbers and error messages. Their docstrings are in ``pages.pyi``.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

from hypervisor.errors import StateError

PAGE_SIZE = 4096
ZERO, RAW, DELTA, COMPRESSED = range(4)
IMPLEMENTATION = "reference"

_HEAD = struct.Struct("<II")
_ENTRY = struct.Struct("<IHH")
_NO_PAGE = bytes(PAGE_SIZE)
_RESERVED = {DELTA: "delta", COMPRESSED: "compressed"}

Readable = bytes | bytearray | memoryview


def has_crc_instruction() -> bool:
    """Never: Python has no instruction for it."""
    return False


# ---------------------------------------------------------------------------------------- checksums


def _crc_of_byte(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)  # Castagnoli's polynomial, reflected
    return value


_CRC_TABLE = tuple(_crc_of_byte(value) for value in range(256))


def crc32c(data: Readable, crc: int = 0, *, hardware: bool = True) -> int:
    """The CRC-32C (RFC 3720, appendix B.4) of ``data``, continuing from ``crc``.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    crc ^= 0xFFFFFFFF
    table = _CRC_TABLE
    for byte in bytes(data):
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


_WORD = (1 << 64) - 1
_P1, _P2, _P3, _P4 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63


def _rotate(value: int, by: int) -> int:
    return (value << by | value >> (64 - by)) & _WORD


def _round(lane: int, value: int) -> int:
    return _rotate((lane + value * _P2) & _WORD, 31) * _P1 & _WORD


def _hash_page(page: Readable) -> int:
    """XXH64 with seed 0 (xxHash specification, "XXH64 algorithm description") of one page."""
    a, b, c, d = (_P1 + _P2) & _WORD, _P2, 0, -_P1 & _WORD
    for w, x, y, z in struct.iter_unpack("<4Q", page):
        a, b, c, d = _round(a, w), _round(b, x), _round(c, y), _round(d, z)
    value = (_rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)) & _WORD
    for lane in (a, b, c, d):
        value = ((value ^ _round(0, lane)) * _P1 + _P4) & _WORD
    value = (value + PAGE_SIZE) & _WORD
    value = (value ^ value >> 33) * _P2 & _WORD
    value = (value ^ value >> 29) * _P3 & _WORD
    return value ^ value >> 32


def page_hashes(ram: Readable, numbers: Sequence[int]) -> array[int]:
    """XXH64 (seed 0) of each page."""
    _check_numbers(len(ram), numbers)
    return array("Q", (_hash_page(_page(ram, number)) for number in numbers))


# -------------------------------------------------------------------------------------------- pages


def _page(ram: Readable, number: int) -> bytes:
    return bytes(ram[number * PAGE_SIZE : (number + 1) * PAGE_SIZE])


def _check_numbers(ram_length: int, numbers: Sequence[int]) -> None:
    pages = ram_length // PAGE_SIZE
    previous = -1
    for number in numbers:
        if number >= pages:
            raise ValueError(f"page {number} is outside the {pages} pages of RAM")
        if number <= previous:
            raise ValueError(f"page {number} does not come after page {previous}")
        previous = number


def classify(ram: Readable) -> bytearray:
    """A bitmap with a one for every page that is not all zero, least significant bit first."""
    if len(ram) % PAGE_SIZE:
        raise ValueError(f"{len(ram)} bytes are not a whole number of pages")
    pages = len(ram) // PAGE_SIZE
    bitmap = bytearray((pages + 7) // 8)
    for number in range(pages):
        if _page(ram, number) != _NO_PAGE:
            bitmap[number >> 3] |= 1 << (number & 7)
    return bitmap


# ------------------------------------------------------------------------------------------- chunks


def bound(count: int) -> int:
    """The most bytes that a chunk of ``count`` pages can have."""
    return _HEAD.size + count * (_ENTRY.size + PAGE_SIZE)


def encode(ram: Readable, numbers: Sequence[int], out: bytearray | memoryview) -> int:
    """Describe the pages ``numbers`` of ``ram`` as one chunk at the start of ``out``; return its length."""
    if len(out) < bound(len(numbers)):
        raise ValueError(f"a chunk of {len(numbers)} pages needs room for {bound(len(numbers))} bytes")
    _check_numbers(len(ram), numbers)
    directory = bytearray()
    data = bytearray()
    for number in numbers:
        page = _page(ram, number)
        if page == _NO_PAGE:
            directory += _ENTRY.pack(number, ZERO, 0)
        else:
            directory += _ENTRY.pack(number, RAW, PAGE_SIZE)
            data += page
    chunk = _HEAD.pack(len(numbers), len(data)) + directory + data
    out[: len(chunk)] = chunk
    return len(chunk)


def _directory(chunk: Readable, pages: int) -> list[tuple[int, int, int]]:
    """The entries of a chunk of which everything has been checked."""
    if len(chunk) < _HEAD.size:
        raise StateError("RAM chunk: shorter than its own header")
    count, announced = _HEAD.unpack_from(chunk)
    if count > (len(chunk) - _HEAD.size) // _ENTRY.size:
        raise StateError(f"RAM chunk: {count} pages are announced, the chunk is too short for them")
    data = _HEAD.size + count * _ENTRY.size
    entries = list(_ENTRY.iter_unpack(chunk[_HEAD.size : data]))
    previous = -1
    total = 0
    for number, encoding, size in entries:
        if number >= pages:
            raise StateError(f"RAM chunk: page {number} is outside the {pages} pages of RAM")
        if number <= previous:
            raise StateError(f"RAM chunk: page {number} is out of order")
        if encoding not in (ZERO, RAW):
            name = _RESERVED.get(encoding, encoding)
            raise StateError(
                f"RAM chunk: page {number} has encoding {name}, which this version does not read"
            )
        if size != (0 if encoding == ZERO else PAGE_SIZE):
            raise StateError(f"RAM chunk: page {number} has {size} bytes")
        total += size
        previous = number
    if total != announced or data + total != len(chunk):
        raise StateError("RAM chunk: its length does not fit its pages")
    return entries


def _summary(entries: list[tuple[int, int, int]]) -> tuple[int, int, int, int]:
    raw = sum(encoding == RAW for _, encoding, _ in entries)
    first, last = (entries[0][0], entries[-1][0]) if entries else (-1, -1)
    return len(entries) - raw, raw, first, last


def inspect(chunk: Readable, pages: int) -> tuple[int, int, int, int]:
    """Check a chunk for a RAM of ``pages`` pages and change nothing."""
    if pages < 0:
        raise ValueError("a negative number of pages")
    return _summary(_directory(chunk, pages))


def decode(
    chunk: Readable, ram: bytearray | memoryview, seen: bytearray | None = None
) -> tuple[int, int, int, int]:
    """Write the pages of a chunk into ``ram``, after all of it passed ``inspect``; returns the same."""
    pages = len(ram) // PAGE_SIZE
    if seen is not None and len(seen) != pages:
        raise ValueError(f"{len(seen)} marks for {pages} pages")
    entries = _directory(chunk, pages)
    data = _HEAD.size + len(entries) * _ENTRY.size
    for number, encoding, size in entries:
        if seen is None or seen[number] or encoding != ZERO:
            # A zero page has no data of its own.
            ram[number * PAGE_SIZE : (number + 1) * PAGE_SIZE] = chunk[data : data + size] or _NO_PAGE
        if seen is not None:
            seen[number] = 1
        data += size
    return _summary(entries)
