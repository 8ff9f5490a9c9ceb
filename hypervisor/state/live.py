"""A machine as a checked stream of bytes: the order of a migration, in which RAM goes first, in rounds.

The sections are the same as in a file (``parts``, ``sections``, ``pages``), in another order, which the
flag LIVE in the header announces::

    config
    ram ...  round      each round: some pages, in ascending order; each page at least once before the end,
    ram ...  round      and the last time it comes it is right
    ram ...             the last pages, of the guest that has stopped
    cpu  clock  device ...  disk clusters ...
    end

``end`` is the digest of everything, so both sides know that they mean the same stream by it. It is good
only when the reader has seen ``end``; the machine whose RAM was filled meanwhile must not have run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from msgspec import Struct

from hypervisor.errors import StateError
from hypervisor.state.codec import PAGE_SIZE, bound, decode, encode
from hypervisor.state.model import STATE_VERSION, U32, MachineState
from hypervisor.state.parts import (
    Configuration,
    pack,
    read_configuration,
    read_machine,
    read_section,
    write_configuration,
    write_machine,
)
from hypervisor.state.sections import (
    CHUNK_PAGES_MAX,
    LIVE,
    SECTION,
    ReadInto,
    SectionReader,
    SectionWriter,
    Write,
)
from hypervisor.state.stream import CHUNK_PAGES, Progress, Summary

MOST_ROUNDS: Final = 1 << 16
"""No sender has so many; a stream without end is refused."""


class Round(Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``round``: the end of one."""

    number: U32


class Sent(NamedTuple):
    """How pages were encoded."""

    zero: int = 0
    normal: int = 0


class LiveWriter:
    """Writes one stream: ``pages`` and ``end_round`` as often as need be, then ``finish``."""

    def __init__(self, write: Write, config: Configuration, ram: memoryview) -> None:
        """``ram`` may be written to by the guest while it is read here: see ``pages``."""
        self._out = SectionWriter(write, STATE_VERSION, LIVE)
        self._config = config
        self._ram = ram
        self._rounds = 0
        self._buffer = memoryview(bytearray(SECTION.size + bound(CHUNK_PAGES)))
        write_configuration(self._out, config)

    @property
    def written(self) -> int:
        """Bytes so far."""
        return self._out.written

    def pages(self, numbers: memoryview) -> Sent:
        """Write up to CHUNK_PAGES pages, whose numbers ascend.

        A page that the guest writes to meanwhile may arrive in a state that it never had; its caller's dirty
        log knows, and sends it again.
        """
        length = encode(self._ram, numbers, self._buffer[SECTION.size :])
        self._out.ram(self._buffer, length)
        raw = (length - bound(0)) // PAGE_SIZE  # the directory of a chunk is shorter than a page
        return Sent(len(numbers) - raw, raw)

    def end_round(self) -> None:
        """All pages of a round are written."""
        self._rounds += 1
        self._out.section("round", pack("round", Round(self._rounds)))
        self._out.flush()

    def finish(self, state: MachineState) -> bytes:
        """Everything but RAM; returns the digest that names this stream."""
        if (state.config, state.identity, state.epoch) != (
            self._config.config,
            self._config.identity,
            self._config.epoch,
        ):
            raise StateError("the state is not of the machine that was announced")
        write_machine(self._out, state)
        return self._out.end()


class LiveReader:
    """Reads one stream. Raises :class:`StateError` for what is truncated, altered, or of another version."""

    def __init__(self, readinto: ReadInto) -> None:
        self._sections = SectionReader(readinto, STATE_VERSION, LIVE)
        self.head = read_configuration(self._sections)
        """Whose stream this is."""
        self.rounds = 0
        """Rounds that have ended."""

    def receive(
        self,
        ram: memoryview,
        *,
        progress: Progress | None = None,
        on_round: Callable[[int], object] | None = None,
    ) -> tuple[MachineState, Summary]:
        """All of the stream. Its pages go into ``ram``, which must be as long as the configuration says and
        all zero.
        """
        sections, total = self._sections, self.head.config.memory
        if len(ram) != total:
            raise StateError(f"RAM has {len(ram)} bytes, the stream is for {total}")
        seen = bytearray(total // PAGE_SIZE)
        buffer = memoryview(bytearray(bound(CHUNK_PAGES_MAX)))
        zero = normal = 0
        previous = -1
        while sections.advance() in ("ram", "round"):
            if sections.name == "round":
                self._end_round()
                previous = -1
                if on_round is not None:
                    on_round(self.rounds)
                continue
            zeros, raws, first, last = decode(sections.payload_into(buffer), ram, seen)
            if first <= previous:
                raise StateError(f"section ram: page {first} came where one behind {previous} was to come")
            previous = last
            zero += zeros
            normal += raws
            if progress is not None:
                progress(seen.count(1) * PAGE_SIZE, total)
        missing = seen.find(0)
        if missing >= 0:
            raise StateError(f"section {sections.name}: page {missing} has not come before it")
        state = read_machine(sections, self.head)
        if sections.name != "end":
            raise StateError(f"section {sections.name}: it has no place here")
        digest = sections.end()
        return state, Summary(sections.taken, zero, normal, digest)

    def _end_round(self) -> None:
        number = read_section(self._sections, Round).number
        if number != self.rounds + 1 or number > MOST_ROUNDS:
            raise StateError(f"section round: number {number} came where {self.rounds + 1} was to come")
        self.rounds = number
