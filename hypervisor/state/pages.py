"""Pages of guest RAM as bytes in a stream: the reference for ``hypervisor.ext.pages``.

A *chunk* describes some pages, in ascending order of their numbers. All numbers are little-endian::

    0   u32  count of entries           directory, 8 bytes for each entry:
    4   u32  bytes of data               0  u32  page number (gpa / 4096)
    8   directory                        4  u16  encoding
    .   data, in the directory's order   6  u16  bytes of data for this page; of zero: pages in the run

======== ========= =====================================================================================
encoding bytes     meaning
======== ========= =====================================================================================
0 zero   none      this page and those behind it, up to the length of the run, are all zero
1 raw    4096      the page itself
2 delta  1 to 4096 what has changed since it came last: runs of u16 words that stay, u16 words that follow,
                   and these, in words of 8 bytes (QEMU's XBZRLE has the same idea)
3 copy   4         u32: the number of a page that the receiver has, and which is equal
======== ========= =====================================================================================

Delta and copy refer to what the receiver has at that point of the stream; they are for migrations only,
in which pages come again. The directory comes first, and alone says how long the data must be; so a reader
refuses a malformed chunk as a whole before it has written anything. That is the promise of ``decode``. (That
a page refers to one that has not come yet is found when its turn comes.)

This module favours clearness; it is used under ``HV_PURE=1`` and as the oracle in the tests. The
compiled one gives the same bytes, numbers and error messages. Their docstrings are in ``pages.pyi``.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hypervisor.errors import StateError

PAGE_SIZE = 4096
ZERO, RAW, DELTA, COPY = range(4)
IMPLEMENTATION = "reference"

_HEAD = struct.Struct("<II")
_ENTRY = struct.Struct("<IHH")
_NO_PAGE = bytes(PAGE_SIZE)
_LONGEST_RUN = 0xFFFF
_WORD = 8
_RUN = struct.Struct("<HH")

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


_MASK = (1 << 64) - 1
_P1, _P2, _P3, _P4 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63


def _rotate(value: int, by: int) -> int:
    return (value << by | value >> (64 - by)) & _MASK


def _round(lane: int, value: int) -> int:
    return _rotate((lane + value * _P2) & _MASK, 31) * _P1 & _MASK


def _hash_page(page: Readable, seed: int) -> int:
    """XXH64 (xxHash specification, "XXH64 algorithm description") of one page."""
    a, b, c, d = (seed + _P1 + _P2) & _MASK, (seed + _P2) & _MASK, seed, (seed - _P1) & _MASK
    for w, x, y, z in struct.iter_unpack("<4Q", page):
        a, b, c, d = _round(a, w), _round(b, x), _round(c, y), _round(d, z)
    value = (_rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)) & _MASK
    for lane in (a, b, c, d):
        value = ((value ^ _round(0, lane)) * _P1 + _P4) & _MASK
    value = (value + PAGE_SIZE) & _MASK
    value = (value ^ value >> 33) * _P2 & _MASK
    value = (value ^ value >> 29) * _P3 & _MASK
    return value ^ value >> 32


def page_hashes(ram: Readable, numbers: Sequence[int], seed: int = 0) -> array[int]:
    """XXH64 of each page."""
    _check_numbers(len(ram), numbers)
    return array("Q", (_hash_page(_page(ram, number), seed) for number in numbers))


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


class Contents(NamedTuple):
    zero: int
    raw: int
    delta: int
    copied: int
    first: int
    last: int


class Encoded(NamedTuple):
    next: int
    start: int
    length: int
    zero: int
    raw: int
    delta: int
    copied: int
    unchanged: int
    skipped: int


def bound(count: int) -> int:
    """The most bytes that a chunk of ``count`` entries can have."""
    return _HEAD.size + count * (_ENTRY.size + PAGE_SIZE)


def _delta(new: bytes, old: bytes) -> bytes:
    """The runs that make ``new`` of ``old``; ``new`` itself if they are no shorter."""
    out = bytearray()
    equal = [new[at : at + _WORD] == old[at : at + _WORD] for at in range(0, PAGE_SIZE, _WORD)]
    at = 0
    while False in equal[at:]:
        begin = equal.index(False, at)
        end = equal.index(True, begin) if True in equal[begin:] else len(equal)
        out += _RUN.pack(begin - at, end - begin) + new[begin * _WORD : end * _WORD]
        at = end
    return bytes(out) if len(out) < PAGE_SIZE else new


def _runs(data: Readable) -> list[tuple[int, bytes]] | None:
    """Offset and new contents of each run of a delta; None if they do not fit into a page."""
    found = []
    used = at = 0
    while used < len(data):
        if len(data) - used < _RUN.size:
            return None
        skip, count = _RUN.unpack_from(data, used)
        begin = used + _RUN.size
        used = begin + count * _WORD
        if not count or at + skip + count > PAGE_SIZE // _WORD or used > len(data):
            return None
        found.append(((at + skip) * _WORD, bytes(data[begin:used])))
        at += skip + count
    return found


class Encoder:
    def __init__(self, ram: Readable, versions: int = 0, seed: int = 0) -> None:
        self._ram = ram
        self._pages = len(ram) // PAGE_SIZE
        self._seed = seed
        self._versions: dict[int, bytes] = {}
        self._owner: list[int | None] = [None] * min(versions, self._pages)
        self._turn = 0
        self._hash_of: dict[int, int] = {}
        self._table: dict[int, int] = {}
        self._mask = 15
        while self._mask + 1 < 2 * self._pages:
            self._mask = 2 * self._mask + 1

    def encode(
        self,
        wanted: Readable,
        first: int,
        out: bytearray | memoryview,
        *,
        skip: Readable | None = None,
        present: Readable | None = None,
        until: int | None = None,
        remember: bool = False,
        dedupe: bool = False,
    ) -> Encoded:
        last = self._pages if until is None else min(until, self._pages)
        for marks in (wanted, skip, present):
            if marks is not None and len(marks) != self._pages:
                raise ValueError(f"{len(marks)} marks for {self._pages} pages")
        if len(out) < bound(1):
            raise ValueError(f"a chunk needs room for {bound(1)} bytes at least")
        most = (len(out) - _HEAD.size) // (_ENTRY.size + PAGE_SIZE)
        entries: list[tuple[int, int, int]] = []
        data = bytearray()
        counts = dict.fromkeys(("zero", "raw", "delta", "copied", "unchanged", "skipped"), 0)
        number = first
        while number < last and len(entries) < most:
            if wanted[number]:
                if skip is not None and skip[number]:
                    counts["skipped"] += 1
                elif present is not None and not present[number]:
                    self._zero(number, entries)
                    counts["zero"] += 1
                else:
                    how, told = self._encode_page(number, entries, remember, dedupe)
                    counts[how] += 1
                    data += told
            number += 1
        while number < last and not wanted[number]:
            number += 1
        start = (most - len(entries)) * _ENTRY.size
        directory = b"".join(_ENTRY.pack(*entry) for entry in entries)
        chunk = _HEAD.pack(len(entries), len(data)) + directory + data
        out[start : start + len(chunk)] = chunk
        return Encoded(number, start, len(chunk), **counts)

    def _encode_page(
        self, number: int, entries: list[tuple[int, int, int]], remember: bool, dedupe: bool
    ) -> tuple[str, bytes]:
        page = _page(self._ram, number)
        if page == _NO_PAGE:
            self._zero(number, entries)
            return "zero", b""
        told = page
        if number in self._versions:
            told = _delta(page, self._versions[number])
            if not told:
                return "unchanged", b""
            self._versions[number] = page
        elif remember and self._owner:
            self._keep(number, page)
        if dedupe:
            other = self._same(number, _hash_page(page, self._seed) or 1)
            if other is not None:
                entries.append((number, COPY, 4))
                return "copied", struct.pack("<I", other)
        else:
            self._hash_of.pop(number, None)
        encoding, how = (DELTA, "delta") if len(told) < PAGE_SIZE else (RAW, "raw")
        entries.append((number, encoding, len(told)))
        return how, told

    def _zero(self, number: int, entries: list[tuple[int, int, int]]) -> None:
        if self._versions.pop(number, None) is not None:
            self._owner[self._owner.index(number)] = None
        self._hash_of.pop(number, None)
        if entries:
            first, encoding, length = entries[-1]
            if encoding == ZERO and length < _LONGEST_RUN and first + length == number:
                entries[-1] = (first, ZERO, length + 1)
                return
        entries.append((number, ZERO, 1))

    def _keep(self, number: int, page: bytes) -> None:
        oldest = self._owner[self._turn]
        if oldest is not None:
            del self._versions[oldest]
        self._owner[self._turn] = number
        self._versions[number] = page
        self._turn = (self._turn + 1) % len(self._owner)

    def _same(self, number: int, value: int) -> int | None:
        """A page that was last sent with the same contents, if one is known."""
        other = self._table.get(value & self._mask)
        self._hash_of[number] = value
        if other is not None and other != number and self._hash_of.get(other) == value:
            return other
        self._table[value & self._mask] = number
        return None


class _Entry(NamedTuple):
    number: int
    encoding: int
    data: Readable
    run: int


def _directory(chunk: Readable, pages: int, *, again: bool) -> list[_Entry]:
    """The entries of a chunk of which everything has been checked."""
    if len(chunk) < _HEAD.size:
        raise StateError("RAM chunk: shorter than its own header")
    count, announced = _HEAD.unpack_from(chunk)
    if count > (len(chunk) - _HEAD.size) // _ENTRY.size:
        raise StateError(f"RAM chunk: {count} pages are announced, the chunk is too short for them")
    data = chunk[_HEAD.size + count * _ENTRY.size :]
    entries = []
    previous = -1
    used = 0
    for number, encoding, size in _ENTRY.iter_unpack(chunk[_HEAD.size : _HEAD.size + count * _ENTRY.size]):
        run, length = (size, 0) if encoding == ZERO else (1, size)
        if number + run > pages:
            raise _outside(number, pages)
        if number <= previous:
            raise StateError(f"RAM chunk: page {number} is out of order")
        if encoding > COPY:
            raise StateError(
                f"RAM chunk: page {number} has encoding {encoding}, which this version does not read"
            )
        if encoding >= DELTA and not again:
            raise StateError(
                f"RAM chunk: page {number} is told by another version of it, but comes for the first time"
            )
        sound = {ZERO: size > 0, RAW: size == PAGE_SIZE, DELTA: 0 < size <= PAGE_SIZE, COPY: size == 4}
        if not sound[encoding]:
            raise StateError(f"RAM chunk: page {number} has {size} bytes")
        told = data[used : used + length]
        if len(told) < length:
            raise StateError("RAM chunk: its length does not fit its pages")
        if encoding == DELTA and _runs(told) is None:
            raise StateError(f"RAM chunk: page {number} has a delta that does not fit into a page")
        if encoding == COPY and struct.unpack("<I", told)[0] >= pages:
            raise _outside(number, pages)
        entries.append(_Entry(number, encoding, told, run))
        used += length
        previous = number + run - 1
    if used != announced or used != len(data):
        raise StateError("RAM chunk: its length does not fit its pages")
    return entries


def _outside(number: int, pages: int) -> StateError:
    return StateError(f"RAM chunk: page {number}, or what it refers to, is outside the {pages} pages of RAM")


def _contents(entries: list[_Entry]) -> Contents:
    zero, raw, delta, copied = (
        sum(entry.run for entry in entries if entry.encoding == code) for code in range(4)
    )
    first, last = (entries[0].number, entries[-1].number + entries[-1].run - 1) if entries else (-1, -1)
    return Contents(zero, raw, delta, copied, first, last)


def inspect(chunk: Readable, pages: int) -> Contents:
    """Check a chunk for a RAM of ``pages`` pages, each of which comes once, and change nothing."""
    if pages < 0:
        raise ValueError("a negative number of pages")
    return _contents(_directory(chunk, pages, again=False))


def decode(
    chunk: Readable, ram: bytearray | memoryview, seen: bytearray | None = None, file: int = -1
) -> Contents:
    """Write the pages of a chunk into ``ram``, after all of it passed ``inspect``; returns the same."""
    pages = len(ram) // PAGE_SIZE
    if seen is not None and len(seen) != pages:
        raise ValueError(f"{len(seen)} marks for {pages} pages")
    entries = _directory(chunk, pages, again=seen is not None)
    for entry in entries:
        for number in range(entry.number, entry.number + entry.run):
            _write_page(entry, number, ram, seen)
            if seen is not None:
                seen[number] = 1
    return _contents(entries)


def pieces(chunk: Readable) -> Iterator[tuple[int, int, Readable | None]]:
    """Runs of pages in a chunk that passed ``inspect``: the first, how many, and their contents (None: zero)."""
    view = memoryview(chunk)
    count, _ = _HEAD.unpack_from(view)
    directory = view[_HEAD.size : _HEAD.size + count * _ENTRY.size]
    begin = end = _HEAD.size + count * _ENTRY.size
    first = length = 0
    for number, encoding, size in _ENTRY.iter_unpack(directory):
        if length and (encoding == ZERO or number != first + length):
            yield first, length, view[begin:end]
            length = 0
        if encoding == ZERO:
            yield number, size, None
            continue
        if not length:
            first, begin = number, end
        length += 1
        end += PAGE_SIZE
    if length:
        yield first, length, view[begin:end]


def _write_page(entry: _Entry, number: int, ram: bytearray | memoryview, seen: bytearray | None) -> None:
    page = memoryview(ram)[number * PAGE_SIZE : (number + 1) * PAGE_SIZE]
    if entry.encoding == ZERO:
        if (seen is None or seen[number]) and page != _NO_PAGE:
            page[:] = _NO_PAGE
        return
    if entry.encoding == RAW:
        page[:] = entry.data
        return
    assert seen is not None
    other = number if entry.encoding == DELTA else struct.unpack("<I", entry.data)[0]
    if not seen[other]:
        raise StateError(f"RAM chunk: page {number} refers to a page that has not come yet")
    if entry.encoding == COPY:
        page[:] = _page(ram, other)
        return
    for at, new in _runs(entry.data) or ():
        page[at : at + len(new)] = new
