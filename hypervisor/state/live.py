"""A machine as a checked stream of bytes: the order of a migration, in which RAM goes first, in rounds.

The sections are the same as in a file (``parts``, ``sections``, ``pages``), in another order, which the
flag LIVE in the header announces::

    config
    ram ...  round      each round: some pages; each page at least once before the end, unless it is
    ram ...  round      absent, and the last time it comes it is right
    ram ...             the last pages, of the guest that has stopped
    snapshot  cpu  clock  device ...  disk clusters ...
                        in hybrid: RAM is now what it was when the machine was in this state; no more RAM
    journal             what came into the machine since (see ``journal``)
    absent              in post-copy: which pages come later (see ``residue``)
    cpu  clock  device ...  disk clusters ...
    end

A section ``packed`` is a section ``ram`` compressed (see ``packing``). ``end`` is the digest of everything, so
both sides know that they mean the same stream by it. It is good only when the reader has seen ``end``; the
machine whose RAM was filled meanwhile must not have run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from msgspec import Struct

from hypervisor.errors import StateError
from hypervisor.marks import both, either, to_bitmap
from hypervisor.state.codec import PAGE_SIZE, Encoded, Encoder, bound, decode
from hypervisor.state.journal import Journal
from hypervisor.state.model import STATE_VERSION, U32, MachineState
from hypervisor.state.packing import ChunkReader
from hypervisor.state.parts import (
    Configuration,
    pack,
    read_configuration,
    read_machine,
    read_section,
    write_configuration,
    write_machine,
)
from hypervisor.state.residue import read_absent
from hypervisor.state.sections import (
    LIVE,
    SECTION,
    Readable,
    ReadInto,
    SectionReader,
    SectionWriter,
    Write,
)
from hypervisor.state.stream import CHUNK_PAGES, Progress

MOST_ROUNDS: Final = 1 << 16
"""No sender has so many; a stream without end is refused."""


class Round(Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``round``: the end of one."""

    number: U32


class Snapshot(Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``snapshot``: the state follows."""


class Checkpoint(NamedTuple):
    """A state that the machine had when RAM held what it does now, and what came in since."""

    state: MachineState
    journal: Journal


class Received(NamedTuple):
    """What came: pages by their encoding, and the digest that names the stream."""

    zero: int
    normal: int
    delta: int
    copied: int
    absent: bytearray
    """For each page, not 0 if it comes later."""
    stale: bytearray
    """For each page, not 0 if RAM has something in it that is not right, for it comes again later."""
    checkpoint: Checkpoint | None
    digest: bytes


class LiveWriter:
    """Writes one stream: ``pages`` and ``end_round`` as often as need be, then ``finish``."""

    def __init__(
        self,
        write: Write,
        config: Configuration,
        encoder: Encoder,
        pack_chunk: Callable[[Readable], bytes | None] = lambda chunk: None,
    ) -> None:
        """``encoder`` must not have told another receiver anything. ``pack_chunk`` makes chunks shorter by ``compress``, or
        leaves one as it is (None).
        """
        self._out = SectionWriter(write, STATE_VERSION, LIVE)
        self._config = config
        self._encoder = encoder
        self._rounds = 0
        self._buffer = memoryview(bytearray(SECTION.size + bound(CHUNK_PAGES)))
        self._pack_chunk = pack_chunk
        write_configuration(self._out, config)

    @property
    def written(self) -> int:
        """Bytes so far."""
        return self._out.written

    def pages(
        self,
        wanted: Readable,
        first: int,
        *,
        skip: Readable | None = None,
        present: Readable | None = None,
        until: int | None = None,
        remember: bool = False,
        dedupe: bool = False,
        encoder: Encoder | None = None,
    ) -> Encoded:
        """Write pages from ``first`` on, as many as fit into a chunk: see ``Encoder.encode``.

        A page that the guest writes to meanwhile may arrive in a state that it never had; the caller's dirty
        log knows, and it is sent again. Another ``encoder`` is for the last pages of a stream: what the usual one
        remembers is out of date then.
        """
        done = (encoder or self._encoder).encode(
            wanted,
            first,
            self._buffer[SECTION.size :],
            skip=skip,
            present=present,
            until=until,
            remember=remember,
            dedupe=dedupe,
        )
        if done.length > bound(0):
            start = SECTION.size + done.start
            packed = self._pack_chunk(self._buffer[start : start + done.length])
            if packed is None:
                self._out.ram(self._buffer, start, done.length)
            else:
                self._out.packed(packed)
        return done

    def end_round(self) -> None:
        """All pages of a round are written."""
        self._rounds += 1
        self._out.section("round", pack("round", Round(self._rounds)))
        self._out.flush()

    def checkpoint(self, state: MachineState) -> None:
        """RAM has been written as it was in this state. No more of it follows."""
        self._out.section("snapshot", pack("snapshot", Snapshot()))
        write_machine(self._out, state)
        self._out.flush()

    def finish(
        self, state: MachineState, absent: Readable | None = None, journal: Journal | None = None
    ) -> bytes:
        """Everything but RAM; returns the digest that names this stream.

        Pages marked in ``absent`` come later. ``journal`` has been kept since ``checkpoint``.
        """
        if journal is not None:
            self._out.section("journal", pack("journal", journal))
        if Configuration(state.config, state.identity, state.epoch) != self._config:
            raise StateError("the state is not of the machine that was announced")
        if absent is not None:
            self._out.section("absent", to_bitmap(absent))
        write_machine(self._out, state)
        return self._out.end()


class LiveReader:
    """Reads one stream. Raises :class:`StateError` for what is truncated, altered, or of another version."""

    def __init__(self, readinto: ReadInto) -> None:
        self._sections = SectionReader(readinto, STATE_VERSION, (LIVE,))
        self._chunks = ChunkReader(self._sections)
        self.head = read_configuration(self._sections)
        """Whose stream this is."""
        self.rounds = 0
        """Rounds that have ended."""

    def receive(
        self,
        ram: memoryview,
        *,
        file: int = -1,
        progress: Progress | None = None,
        on_round: Callable[[int], object] | None = None,
    ) -> tuple[MachineState, Received]:
        """All of the stream. Its pages go into ``ram``, which must be as long as the configuration says and
        all zero. ``file``: see ``decode``.
        """
        sections, total = self._sections, self.head.config.memory
        if len(ram) != total:
            raise StateError(f"RAM has {len(ram)} bytes, the stream is for {total}")
        pages = total // PAGE_SIZE
        seen = bytearray(pages)
        zero = normal = delta = copied = 0
        in_round = 0
        while sections.advance() in ("ram", "packed", "round"):
            if sections.name == "round":
                self._end_round()
                in_round = 0
                if on_round is not None:
                    on_round(self.rounds)
                continue
            found = decode(self._chunks.chunk(), ram, seen, file)
            count = found.zero + found.raw + found.delta + found.copied
            in_round += count
            if not 0 < count <= in_round <= pages:
                raise StateError(f"section {sections.name}: {in_round} pages in a round, there are {pages}")
            zero += found.zero
            normal += found.raw
            delta += found.delta
            copied += found.copied
            if progress is not None:
                progress(seen.count(1) * PAGE_SIZE, total)
        checkpoint = self._checkpoint(seen)
        absent = stale = bytearray(pages)
        if sections.name == "absent":
            absent = read_absent(sections, pages)
            stale = both(seen, absent)
            sections.advance()
            self._require(either(seen, absent))
        else:
            self._require(seen)
        state = read_machine(sections, self.head)
        if sections.name != "end":
            raise StateError(f"section {sections.name}: it has no place here")
        return state, Received(zero, normal, delta, copied, absent, stale, checkpoint, sections.end())

    def _checkpoint(self, seen: bytearray) -> Checkpoint | None:
        """The sections ``snapshot`` and ``journal``, if the current one is the first of them."""
        sections = self._sections
        if sections.name != "snapshot":
            return None
        self._require(seen)
        read_section(sections, Snapshot)
        sections.advance()
        state = read_machine(sections, self.head)
        if sections.name != "journal":
            raise StateError(f"section {sections.name} came where section journal was to come")
        journal = read_section(sections, Journal)
        sections.advance()
        return Checkpoint(state, journal)

    def _require(self, seen: bytearray) -> None:
        missing = seen.find(0)
        if missing >= 0:
            raise StateError(f"section {self._sections.name}: page {missing} has not come before it")

    def _end_round(self) -> None:
        number = read_section(self._sections, Round).number
        if number != self.rounds + 1 or number > MOST_ROUNDS:
            raise StateError(f"section round: number {number} came where {self.rounds + 1} was to come")
        self.rounds = number
