"""A machine as a checked stream of bytes: the order of a file.

The sections come in this order: those of ``parts``, then ``ram`` chunks with every page exactly once in
ascending order, then ``end``. ``sections`` tells how they are framed and ``pages`` what is in a chunk.
Equal machines give equal bytes. (A machine that runs meanwhile goes in another order: see ``live``.)

A reader gets the state first and RAM after it, into a buffer that it supplies; the stream is good
only when ``read_ram`` has returned. So nothing that lives may be touched before: RAM goes to a machine
that has not run yet, and the state is restored at the very end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from hypervisor.errors import StateError
from hypervisor.state.codec import PAGE_SIZE, Encoder, bound, decode, inspect
from hypervisor.state.model import STATE_VERSION, MachineState
from hypervisor.state.parts import (
    Configuration,
    read_configuration,
    read_machine,
    write_configuration,
    write_machine,
)
from hypervisor.state.sections import (
    CHUNK_PAGES_MAX,
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


# ------------------------------------------------------------------------------------------ writing


def write_stream(
    state: MachineState,
    ram: memoryview,
    write: Write,
    *,
    present: Readable | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Write a machine that is not running.

    ``ram`` is its memory, indexed by guest-physical address; ``present`` has a byte for each page, which is
    0 where the page is known to be all zero, so that it need not be read.

    Raises:
        StateError: the state has something in it that cannot be written.
        Exception: whatever ``write`` raises.
    """
    total = state.config.memory
    if len(ram) != total or total % PAGE_SIZE:
        raise StateError(f"RAM has {len(ram)} bytes, the configuration says {total}")
    out = SectionWriter(write, STATE_VERSION)
    write_configuration(out, Configuration(state.config, state.identity, state.epoch))
    write_machine(out, state)
    zero = normal = at = 0
    pages = total // PAGE_SIZE
    encoder = Encoder(ram)
    everything = b"\1" * pages
    buffer = memoryview(bytearray(SECTION.size + bound(CHUNK_PAGES)))
    while at < pages:
        done = encoder.encode(everything, at, buffer[SECTION.size :], present=present)
        out.ram(buffer, SECTION.size + done.start, done.length)
        at = done.next
        zero += done.zero
        normal += done.raw
        if progress is not None:
            progress(at * PAGE_SIZE, total)
    digest = out.end()
    return Summary(out.written, zero, normal, digest)


# ------------------------------------------------------------------------------------------ reading


class StreamReader:
    """Reads one stream: first ``read_state``, then ``read_ram``.

    Both raise :class:`StateError` for a stream that is truncated, altered or of another version, and
    then name the section and, inside of a state, the field.
    """

    def __init__(self, readinto: ReadInto) -> None:
        self._sections = SectionReader(readinto, STATE_VERSION)
        self._memory = 0

    def read_state(self) -> MachineState:
        """Everything but RAM. It is not to be used before ``read_ram`` has returned."""
        head = read_configuration(self._sections)
        self._memory = head.config.memory
        self._sections.advance()
        return read_machine(self._sections, head)

    def read_ram(self, ram: memoryview | None, *, progress: Progress | None = None) -> Summary:
        """The rest of the stream. Returns when all of it, the final digest too, was found good.

        With ``ram=None`` everything is checked and nothing kept. Otherwise ``ram`` must be as long as
        the configuration says; if this raises, part of it has been overwritten.
        """
        sections = self._sections
        if ram is not None and len(ram) != self._memory:
            raise StateError(f"RAM has {len(ram)} bytes, the stream is for {self._memory}")
        pages = self._memory // PAGE_SIZE
        buffer = memoryview(bytearray(bound(CHUNK_PAGES_MAX)))
        zero = normal = done = 0
        while sections.name == "ram":
            chunk = sections.payload_into(buffer)
            # Looking before decoding keeps a page that comes twice from being written twice.
            found = inspect(chunk, pages)
            count = found.zero + found.raw
            if found.first != done or found.last != done + count - 1:
                raise StateError(
                    f"section ram: pages {found.first} to {found.last} came where page {done} was to come"
                )
            if ram is not None:
                decode(chunk, ram)
            zero += found.zero
            normal += found.raw
            done += count
            if progress is not None:
                progress(done * PAGE_SIZE, self._memory)
            sections.advance()
        if sections.name != "end":
            raise StateError(f"section {sections.name}: it has no place here")
        if done != pages:
            raise StateError(f"section ram: {done} pages came, the configuration says {pages}")
        digest = sections.end()
        return Summary(sections.taken, zero, normal, digest)
