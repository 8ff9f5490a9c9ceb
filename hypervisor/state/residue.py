"""The pages that stay behind in post-copy, as streams of bytes.

They travel after the guest, to a machine that runs, as a stream of their own (``sections``, flag PAGES)::

    ram ...             in any order, each page once; zero or raw only, since whatever a delta or a
    end                 copy could refer to, the guest may have stored to meanwhile

A section ``packed`` may stand for ``ram``. Before such a stream the receiver may tell the sender which pages
it has not got: a stream (PAGES, too) of ``absent``, a bitmap (``marks``), and ``end``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hypervisor.errors import StateError
from hypervisor.marks import from_bitmap, to_bitmap
from hypervisor.state.codec import Encoded, Encoder, bound, inspect
from hypervisor.state.model import STATE_VERSION
from hypervisor.state.packing import ChunkReader
from hypervisor.state.pages import pieces
from hypervisor.state.sections import (
    PAGES,
    SECTION,
    Readable,
    ReadInto,
    SectionReader,
    SectionWriter,
    Write,
)

Piece = tuple[int, int, Readable | None]
"""The first of a run of pages, how many, and their contents (None: they are zero)."""


class PageWriter:
    """Writes one stream of pages: ``pages`` as often as need be, then ``finish``."""

    def __init__(
        self,
        write: Write,
        encoder: Encoder,
        longest: int,
        pack_chunk: Callable[[Readable], bytes | None] = lambda chunk: None,
    ) -> None:
        """``longest``: pages in a chunk. ``encoder`` and ``pack_chunk`` as in ``LiveWriter``."""
        self._out = SectionWriter(write, STATE_VERSION, PAGES)
        self._encoder = encoder
        self._buffer = memoryview(bytearray(SECTION.size + bound(longest)))
        self._pack_chunk = pack_chunk

    def pages(self, wanted: Readable, first: int, until: int) -> Encoded:
        """Write the marked pages from ``first`` on and before ``until``, as many as fit into a chunk."""
        done = self._encoder.encode(wanted, first, self._buffer[SECTION.size :], until=until)
        start = SECTION.size + done.start
        packed = self._pack_chunk(self._buffer[start : start + done.length])
        if packed is None:
            self._out.ram(self._buffer, start, done.length)
        else:
            self._out.packed(packed)
        return done

    def finish(self) -> None:
        """No page follows."""
        self._out.end()


class PageReader:
    """Reads one stream of pages. Raises :class:`StateError` for what is truncated, altered or malformed."""

    def __init__(self, readinto: ReadInto, pages: int) -> None:
        self._sections = SectionReader(readinto, STATE_VERSION, (PAGES,))
        self._chunks = ChunkReader(self._sections)
        self._pages = pages

    def pieces(self) -> Iterator[Piece] | None:
        """The pages of the next chunk, to be used before the next call; None at the end."""
        name = self._sections.advance()
        if name == "end":
            self._sections.end()
            return None
        if name not in ("ram", "packed"):
            raise StateError(f"section {name}: it has no place among pages")
        chunk = self._chunks.chunk()
        inspect(chunk, self._pages)
        return pieces(chunk)


def write_missing(write: Write, absent: Readable) -> None:
    """Tell which pages have not come."""
    out = SectionWriter(write, STATE_VERSION, PAGES)
    out.section("absent", to_bitmap(absent))
    out.end()


def read_missing(readinto: ReadInto, pages: int) -> bytearray:
    """What ``write_missing`` wrote. Raises :class:`StateError`."""
    sections = SectionReader(readinto, STATE_VERSION, (PAGES,))
    if sections.advance() != "absent":
        raise StateError(f"section {sections.name} came where section absent was to come")
    absent = read_absent(sections, pages)
    if sections.advance() != "end":
        raise StateError(f"section {sections.name} came where section end was to come")
    sections.end()
    return absent


def read_absent(sections: SectionReader, pages: int) -> bytearray:
    """The payload of a section ``absent``."""
    try:
        return from_bitmap(sections.payload(), pages)
    except ValueError as error:
        raise StateError(f"section absent: {error}") from None
