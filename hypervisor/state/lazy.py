"""Lazy restore: a machine runs at once, and each frame of its RAM comes from the file when it is first needed.

Only what is not RAM is read beforehand. Of RAM the headers of its chunks are, and the digest at the end, which
covers those headers and, by the checksums in them, all of RAM: so a truncated file, or one that does not hang
together, is refused as always. What is in a chunk is checked when it is needed. A file that was altered there
is found out then: nothing wrong reaches the guest, but it cannot go on.

The file stays open until all of its RAM was needed or the machine is gone. One that takes its name meanwhile
(saving is atomic) is another file, and does no harm.
"""

from __future__ import annotations

import bisect
import os
import threading
import weakref
from pathlib import Path
from typing import Protocol

from hypervisor.errors import StateError
from hypervisor.state.atomic import reading
from hypervisor.state.codec import PAGE_SIZE, crc32c, inspect
from hypervisor.state.model import MachineState
from hypervisor.state.pages import pieces
from hypervisor.state.stream import Parent, Place, StreamReader


class Frames(Protocol):
    """Takes frames; see paging/absent.py."""

    def admit(self, first: int, count: int, data: bytes | bytearray | memoryview | None = None, /) -> int: ...


class LazyFile:
    """A file with a machine, open. Its RAM can be brought frame by frame: it is a frame source, any thread's.

    Raises (from making it, and from ``want``):
        StateError: the file is truncated, altered, of another version, or no saved machine at all.
        HostError: it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with reading(path) as descriptor:
            self._file = os.dup(descriptor)
        self._close = weakref.finalize(self, os.close, self._file)
        self._frames: Frames | None = None
        self._reading = threading.Lock()
        try:
            reader = StreamReader(lambda view: os.readv(self._file, [view]))
            self.state: MachineState = reader.read_state()
            self.parent: Parent | None = reader.parent
            """Of an increment, which cannot be restored lazily."""
            self._places: list[Place] = []
            self.digest = b""
            if self.parent is None:
                self._places, self.digest = reader.survey(self._pass)
        except StateError as error:
            self._close()
            raise StateError(f"{path}: {error}") from None
        self._pages = self.state.config.memory // PAGE_SIZE

    def bring_to(self, frames: Frames) -> bytes:
        """From now on this brings what ``frames`` wants. Returns marks of all frames: none is here yet."""
        self._frames = frames
        return b"\1" * self._pages

    def want(self, frame: int) -> None:
        """Bring this frame, and the others of its chunk."""
        assert self._frames is not None
        n = bisect.bisect_right(self._places, frame, key=lambda place: place.first) - 1
        with self._reading:
            if self._close.alive:  # otherwise another thread has brought the last frame, thus this one
                for piece in pieces(self._chunk(n)):
                    self._frames.admit(*piece)

    def finished(self) -> None:
        """All is here."""
        self._close()

    def _chunk(self, n: int) -> bytes:
        place = self._places[n]
        following = self._places[n + 1].first if n + 1 < len(self._places) else self._pages
        chunk = os.pread(self._file, place.length, place.offset)
        if len(chunk) < place.length or crc32c(chunk) != place.checksum:
            raise StateError(f"{self.path}: section ram: the checksum does not match, the file was altered")
        try:
            found = inspect(chunk, self._pages)
        except StateError as error:
            raise StateError(f"{self.path}: {error}") from None
        if (found.first, found.last, found.zero + found.raw) != (
            place.first,
            following - 1,
            following - place.first,
        ):
            raise StateError(
                f"{self.path}: section ram: pages {place.first} to {following - 1} are not all there"
            )
        return chunk

    def _pass(self, length: int, most: int) -> bytes:
        """Go on behind so many bytes; returns the first ``most`` of them."""
        end = os.lseek(self._file, length, os.SEEK_CUR)
        return os.pread(self._file, min(length, most), end - length)
