"""A machine as a checked stream of bytes: the order of a file.

The sections come in this order: those of ``parts``, then ``ram`` chunks with every page exactly once in
ascending order, then ``end``. ``sections`` tells how they are framed and ``pages`` what is in a chunk.
Equal machines give equal bytes. (A migration goes in another order: see ``live``.)

An *increment* holds what has changed since another stream, its parent: after ``config`` comes ``parent``, which
names it by its digest; there are the changed pages only, and of the disks the changed clusters only. Everything
else is complete. The flag INCREMENT in the header tells the two apart.

A reader gets the state first and RAM after it, into a buffer that it supplies; the stream is good
only when ``read_ram`` has returned. So nothing that lives may be touched before: RAM goes to a machine
that has not run yet, and the state is restored at the very end.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Final, NamedTuple, Protocol

from msgspec import Meta, Struct

from hypervisor.errors import StateError
from hypervisor.marks import how_many
from hypervisor.state.codec import PAGE_SIZE, Encoder, bound, decode, inspect
from hypervisor.state.model import STATE_VERSION, U32, MachineState
from hypervisor.state.parts import (
    Configuration,
    expect,
    pack,
    read_configuration,
    read_machine,
    read_section,
    write_configuration,
    write_machine,
)
from hypervisor.state.sections import (
    CHUNK_PAGES_MAX,
    DIGEST_SIZE,
    INCREMENT,
    SECTION,
    Readable,
    ReadInto,
    SectionReader,
    SectionWriter,
    Write,
)

CHUNK_PAGES: Final = 128
"""Pages per chunk that we write: half a megabyte, which stays in a CPU's cache between the copying, the
checksum and the system call that sends it, and makes the Python around them cheap (measured: 32 pages
are 15 % slower, 256 pages 10 % faster where the cache is large)."""

FIRST_PAGE: Final = struct.Struct("<8xI")
"""The beginning of a chunk, up to the number of its first page (see ``pages``)."""

Progress = Callable[[int, int], object]
"""Called with the bytes of guest RAM done so far, and all of them."""


class Summary(NamedTuple):
    """What a stream held."""

    length: int
    """Bytes of the stream."""
    zero: int
    """Pages that were all zero."""
    normal: int
    """Pages as they are."""
    digest: bytes
    """Names this stream: any other machine has another one."""


class Parent(Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``parent`` of an increment."""

    digest: Annotated[bytes, Meta(min_length=DIGEST_SIZE, max_length=DIGEST_SIZE)]
    """Names the stream that this one stands on."""
    name: Annotated[str, Meta(max_length=255, pattern="^[^/\0]*$")]
    """The file that it was in: a hint where to look first."""
    pages: U32
    """How many pages follow."""


class Place(NamedTuple):
    """Where a chunk of RAM is in a stream."""

    first: int
    """Its first page."""
    offset: int
    """Of its payload, in bytes from the beginning of the stream."""
    length: int
    checksum: int


class Changes(NamedTuple):
    """What an increment is to hold, besides the state."""

    parent: bytes
    """The parent's digest."""
    name: str
    """Its file's name, without directories."""
    pages: bytes | bytearray
    """A byte for each page, not 0 if it has changed."""


# ------------------------------------------------------------------------------------------ writing


class Copy(Protocol):
    """RAM that is copied as it is needed. Pages are from ``first`` on, to the one before ``stop``."""

    def read(self, first: int, stop: int) -> object:
        """See to it that these pages can be read."""
        ...

    def forget(self, first: int, stop: int) -> object:
        """They are not needed any more."""
        ...


def write_stream(
    state: MachineState,
    ram: memoryview,
    write: Write,
    *,
    present: Readable | None = None,
    changes: Changes | None = None,
    copy: Copy | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Write a machine that is not running, or a copy of one.

    ``ram`` is its memory, indexed by guest-physical address; ``present`` has a byte for each page, which is
    0 where the page is known to be all zero, so that it need not be read. With ``copy``, pages are in ``ram``
    once it was told to read them. With ``changes`` it is an increment, and ``state`` has the changed clusters of
    disks only.

    Raises:
        StateError: the state has something in it that cannot be written.
        Exception: whatever ``write`` raises.
    """
    total = state.config.memory
    if len(ram) != total or total % PAGE_SIZE:
        raise StateError(f"RAM has {len(ram)} bytes, the configuration says {total}")
    pages = total // PAGE_SIZE
    wanted = b"\1" * pages if changes is None else changes.pages
    buffer = new_buffer()
    return write_chunks(
        state,
        encode_all(ram, wanted, lambda: buffer, present=present, copy=copy),
        write,
        changes=changes,
        progress=progress,
    )


class Chunk(NamedTuple):
    """Encoded pages: ``length`` bytes in ``buffer``, behind room for a section's header."""

    buffer: memoryview
    start: int
    length: int
    zero: int
    raw: int
    stop: int
    """They are of pages before this one; it is the next, or the number of pages."""


def new_buffer() -> memoryview:
    """Room for a chunk and the header of its section."""
    return memoryview(bytearray(SECTION.size + bound(CHUNK_PAGES)))


def encode_all(
    ram: memoryview,
    wanted: Readable,
    buffer: Callable[[], memoryview],
    *,
    present: Readable | None = None,
    copy: Copy | None = None,
) -> Iterator[Chunk]:
    """The pages marked in ``wanted``, in chunks; each asks for a ``buffer`` to lie in. The rest: ``write_stream``."""
    pages = len(wanted)
    encoder = Encoder(ram)
    at = pages - len(bytes(wanted).lstrip(b"\0"))
    while at < pages:
        out = buffer()
        reach = at
        while True:
            ahead = min(reach + max(CHUNK_PAGES, reach - at), pages)
            if copy is not None:
                copy.read(reach, ahead)
            done = encoder.encode(wanted, at, out[SECTION.size :], present=present)
            if copy is None or done.next <= ahead:
                break
            reach = ahead  # zeros take no room, so the chunk goes on behind what was read
        yield Chunk(out, SECTION.size + done.start, done.length, done.zero, done.raw, done.next)
        if copy is not None:
            copy.forget(at, done.next)
        at = done.next


def write_chunks(
    state: MachineState,
    chunks: Iterable[Chunk],
    write: Write,
    *,
    changes: Changes | None = None,
    progress: Progress | None = None,
) -> Summary:
    """As ``write_stream``, for pages that are encoded already, or will be when their turn comes."""
    total = state.config.memory
    out = SectionWriter(write, STATE_VERSION, 0 if changes is None else INCREMENT)
    write_configuration(out, Configuration(state.config, state.identity, state.epoch))
    if changes is not None:
        count = how_many(changes.pages)
        out.section("parent", pack("parent", Parent(changes.parent, changes.name, count)))
    write_machine(out, state)
    zero = normal = 0
    for chunk in chunks:
        out.ram(chunk.buffer, chunk.start, chunk.length)
        zero += chunk.zero
        normal += chunk.raw
        if progress is not None:
            progress(chunk.stop * PAGE_SIZE, total)
    digest = out.end()
    return Summary(out.written, zero, normal, digest)


# ------------------------------------------------------------------------------------------ reading


class StreamReader:
    """Reads one stream: first ``read_state``, then ``read_ram``.

    Both raise :class:`StateError` for a stream that is truncated, altered or of another version, and
    then name the section and, inside of a state, the field.

    ``parent`` is that of an increment, from ``read_state`` on, and None if the stream is complete in itself.
    """

    def __init__(self, readinto: ReadInto) -> None:
        self._sections = SectionReader(readinto, STATE_VERSION, (0, INCREMENT))
        self._memory = 0
        self.parent: Parent | None = None

    def read_state(self) -> MachineState:
        """Everything but RAM. It is not to be used before ``read_ram`` has returned."""
        head = read_configuration(self._sections)
        self._memory = head.config.memory
        if self._sections.flags == INCREMENT:
            expect(self._sections, "parent")
            self.parent = read_section(self._sections, Parent)
        self._sections.advance()
        return read_machine(self._sections, head)

    def read_ram(self, ram: memoryview | None, *, progress: Progress | None = None) -> Summary:
        """The rest of the stream. Returns when all of it, the final digest too, was found good.

        With ``ram=None`` everything is checked and nothing kept. Otherwise ``ram`` must be as long as
        the configuration says, and, before an increment is read, hold what the parent says; if this raises,
        part of it has been overwritten.
        """
        if ram is None:
            return self.read_chunks(len, progress=progress)
        if len(ram) != self._memory:
            raise StateError(f"RAM has {len(ram)} bytes, the stream is for {self._memory}")
        return self.read_chunks(lambda chunk: decode(chunk, ram), progress=progress)

    def read_chunks(
        self, take: Callable[[memoryview], object], *, progress: Progress | None = None
    ) -> Summary:
        """As ``read_ram``, for one who decodes the chunks: ``take`` gets each, to be used before it returns."""
        sections = self._sections
        pages = self._memory // PAGE_SIZE
        announced = pages if self.parent is None else self.parent.pages
        buffer = memoryview(bytearray(bound(CHUNK_PAGES_MAX)))
        zero = normal = done = 0
        previous = -1
        while sections.name == "ram":
            chunk = sections.payload_into(buffer)
            # Looking before decoding keeps a page that comes twice from being written twice.
            found = inspect(chunk, pages)
            count = found.zero + found.raw
            whole = (found.first, found.last) == (done, done + count - 1)
            if found.first <= previous or not (whole or self.parent):
                raise StateError(
                    f"section ram: pages {found.first} to {found.last} came where page {previous + 1} was to come"
                )
            take(chunk)
            zero += found.zero
            normal += found.raw
            done += count
            previous = found.last
            if progress is not None:
                progress(done * PAGE_SIZE, announced * PAGE_SIZE)
            sections.advance()
        if sections.name != "end":
            raise StateError(f"section {sections.name}: it has no place here")
        if done != announced:
            raise StateError(f"section ram: {done} pages came, {announced} were announced")
        digest = sections.end()
        return Summary(sections.taken, zero, normal, digest)

    def survey(self, skip: Callable[[int, int], bytes]) -> tuple[list[Place], bytes]:
        """Instead of ``read_ram``, of a stream that is complete in itself: where RAM is, and the digest.

        Of RAM only the headers of its sections are checked. ``skip`` passes over so many bytes of the stream, and
        returns the first of them, as many as its second argument says.
        """
        sections = self._sections
        pages = self._memory // PAGE_SIZE
        places: list[Place] = []
        while sections.name == "ram":
            offset, length, checksum = sections.taken, sections.length, sections.checksum
            begin = sections.skip(skip, FIRST_PAGE.size)
            if len(begin) < FIRST_PAGE.size:
                raise StateError("section ram: the chunk is too short for a page")
            first = FIRST_PAGE.unpack(begin)[0]
            previous = places[-1].first if places else -1
            if not previous < first < pages or (not places and first):
                raise StateError(f"section ram: page {first} came where page {previous + 1} was to come")
            places.append(Place(first, offset, length, checksum))
            sections.advance()
        if sections.name != "end":
            raise StateError(f"section {sections.name}: it has no place here")
        if not places:
            raise StateError(f"section ram: 0 pages came, {pages} were announced")
        return places, sections.end()
