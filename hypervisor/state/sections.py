"""The frame of a stream: a header, then named sections, then a digest over all of them.

All numbers are little-endian on any host::

    header, 20 bytes                        section, 24 bytes and its payload
      0   8s  magic                           0   8s  name, padded with zeros
      8  u16  version of this format          8  u32  index: 0, 1, 2, ...
     10  u16  version of the state           12  u32  length of the payload
     12  u32  flags: which kind of stream     16  u32  CRC-32C of the payload
     16  u32  CRC-32C of the bytes 0-15      20  u32  CRC-32C of the bytes 0-19

The header keeps this layout in every version of the format, so that an altered header and one of
another version can be told apart. A section's header has its own checksum: its length is believed
only after that, and only up to the limit of its name, *before* memory is taken for it.

The last section, ``end``, holds the BLAKE2b-256 digest of the header, of every section header and of
every payload but those of ``ram`` and ``packed``. RAM comes in through the CRC-32C in the section headers, because
BLAKE2b runs at a tenth of the speed of memory. Per RAM chunk this leaves what CRC-32C cannot see:
nothing of up to three altered bits or of one burst of 32, and one in 2**32 of all else. The digest is
no defence against forgery, anyone can compute it; authentic peers are the channel's business.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Collection
from typing import Final, Protocol

from hypervisor.errors import StateError
from hypervisor.state.codec import PAGE_SIZE, bound, crc32c
from hypervisor.state.model import CLUSTER

MAGIC: Final = b"\x93HVSTATE"
FORMAT_VERSION: Final = 2
HEADER: Final = struct.Struct("<8sHHII")
SECTION: Final = struct.Struct("<8sIIII")
LIVE: Final = 1
"""Flag: the sections are in the order of ``live``, not in that of a file."""
INCREMENT: Final = 2
"""Flag: there is only what has changed since another stream, the parent (see ``stream``)."""
PAGES: Final = 4
"""Flag: there are only pages, for a machine that runs already: see ``residue``."""
ORDERS: Final = {
    0: "of a whole machine",
    LIVE: "of a migration",
    INCREMENT: "of changes to another file",
    PAGES: "of pages alone",
}
"""What a stream can be, for people."""
DIGEST_SIZE: Final = 32
CHUNK_PAGES_MAX: Final = 256
CLUSTERS_MAX: Final = 128

LIMITS: Final[dict[str, int]] = {
    "config": 64 << 10,
    "parent": 4 << 10,
    "cpu": 64 << 10,
    "clock": 4 << 10,
    "device": 4 << 20,
    "disk": 4 << 10,
    "clusters": CLUSTERS_MAX * (8 + CLUSTER),
    "ram": bound(CHUNK_PAGES_MAX),
    "packed": bound(CHUNK_PAGES_MAX),
    "round": 64,
    "snapshot": 64,
    "journal": 1 << 20,
    "absent": (3 << 30) // PAGE_SIZE // 8,
    "end": DIGEST_SIZE,
}
"""Every section there is, with the longest payload that a reader takes memory for."""

Readable = bytes | bytearray | memoryview


class Write(Protocol):
    """Takes all of ``data`` before it returns (the buffer is used again), or raises."""

    def __call__(self, data: Readable, /) -> object: ...


ReadInto = Callable[[memoryview], int]
"""Fills some of a buffer and returns how many bytes, 0 at the end: ``io.RawIOBase.readinto``."""


class SectionWriter:
    """Writes the header, then one section after the other, then the end.

    Small sections are gathered and go out with the next RAM chunk or the end: few system calls.
    """

    def __init__(self, write: Write, state_version: int, flags: int = 0) -> None:
        self._write = write
        self._digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
        self._index = 0
        self._gathered = bytearray()
        self.written = 0
        """Bytes given to ``write`` so far."""
        body = HEADER.pack(MAGIC, FORMAT_VERSION, state_version, flags, 0)[:-4]
        header = body + struct.pack("<I", crc32c(body))
        self._digest.update(header)
        self._gathered += header

    def section(self, name: str, payload: bytes) -> None:
        """Write a section whose payload is small."""
        if len(payload) > LIMITS[name]:
            raise StateError(f"section {name}: {len(payload)} bytes, the format allows {LIMITS[name]}")
        head = self._head(name, payload)
        self._digest.update(head)
        self._digest.update(payload)
        self._gathered += head + payload

    def ram(self, buffer: memoryview, start: int, length: int) -> None:
        """Write a RAM chunk of ``length`` bytes that lies in ``buffer`` at ``start``, behind room for the
        section's header.
        """
        self.flush()
        chunk = buffer[start - SECTION.size : start + length]
        head = self._head("ram", chunk[SECTION.size :])
        self._digest.update(head)
        chunk[: SECTION.size] = head
        self._put(chunk)

    def packed(self, payload: bytes) -> None:
        """Write a RAM chunk that was compressed."""
        self.flush()
        head = self._head("packed", payload)
        self._digest.update(head)
        self._put(head)
        self._put(payload)

    def end(self) -> bytes:
        """Write the last section; returns the digest in it, which names this stream."""
        digest = self._digest.digest()
        self._gathered += self._head("end", digest) + digest
        self.flush()
        return digest

    def _head(self, name: str, payload: Readable) -> bytes:
        body = SECTION.pack(name.encode(), self._index, len(payload), crc32c(payload), 0)[:-4]
        self._index += 1
        return body + struct.pack("<I", crc32c(body))

    def flush(self) -> None:
        """Send what was gathered."""
        if self._gathered:
            gathered, self._gathered = self._gathered, bytearray()
            self._put(gathered)

    def _put(self, data: Readable) -> None:
        self._write(data)
        self.written += len(data)


class SectionReader:
    """Reads what a :class:`SectionWriter` wrote and believes none of it before it is checked.

    ``name``, ``length`` and ``checksum`` are those of the section whose payload comes next, ``flags`` those of the header,
    which must be among ``accepted``.

    Every method raises :class:`StateError` when the stream is truncated, altered or of another version.
    """

    def __init__(self, readinto: ReadInto, state_version: int, accepted: Collection[int] = (0,)) -> None:
        self._readinto = readinto
        self._digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
        self._index = 0
        self.checksum = 0
        self.name = "header"
        self.length = 0
        self.taken = 0
        """Bytes read so far."""
        self.flags = self._header(state_version, accepted)

    def _header(self, state_version: int, accepted: Collection[int]) -> int:
        header = self._take(HEADER.size)
        magic, version, state, flags, checksum = HEADER.unpack(header)
        if magic != MAGIC:
            raise StateError("not a saved machine: it does not begin with this hypervisor's magic number")
        if checksum != crc32c(header[:-4]):
            raise StateError("header: the checksum does not match, the stream was altered")
        if (version, state) != (FORMAT_VERSION, state_version):
            raise StateError(
                f"the stream has format version {version} and state version {state}; "
                f"this hypervisor reads format version {FORMAT_VERSION} and state version {state_version}"
            )
        if flags not in ORDERS:
            raise StateError(f"header: flags {flags:#x} ask for something that this hypervisor does not know")
        if flags not in accepted:
            raise StateError(f"header: the stream is that {ORDERS[flags]}, which has no place here")
        self._digest.update(header)
        return int(flags)

    def advance(self) -> str:
        """Go to the next section and return its name."""
        self.name = f"after {self.name}"
        head = self._take(SECTION.size)
        raw_name, index, length, checksum, own = SECTION.unpack(head)
        if own != crc32c(head[:-4]):
            raise StateError(f"section {self._index}: its header was altered")
        name: str = raw_name.rstrip(b"\0").decode("ascii", "backslashreplace")
        if index != self._index:
            raise StateError(f"section {name}: it is number {index}, number {self._index} should come here")
        if name not in LIMITS:
            raise StateError(f"section {name!r} is not known to this hypervisor")
        if length > LIMITS[name]:
            raise StateError(f"section {name}: {length} bytes, the format allows {LIMITS[name]}")
        self.name, self.length, self.checksum = name, length, checksum
        self._index += 1
        if name != "end":
            self._digest.update(head)
        return name

    def payload(self) -> bytes:
        """The payload of a small section."""
        data = self._take(self.length)
        self._check(data)
        if self.name != "end":
            self._digest.update(data)
        return data

    def payload_into(self, buffer: memoryview) -> memoryview:
        """The payload of a RAM section, read into the front of ``buffer``; returns that part."""
        view = buffer[: self.length]
        self._fill(view)
        self._check(view)
        return view

    def skip(self, skip: Callable[[int, int], bytes], most: int) -> bytes:
        """Leave out the payload of a RAM section, unchecked, by ``skip(length, most)``, and return its beginning."""
        begin = skip(self.length, most)
        self.taken += self.length
        return begin

    def end(self) -> bytes:
        """Check the section ``end`` against everything that was read, and return the digest."""
        if self.payload() != self._digest.digest():
            raise StateError("section end: the digest does not match, the stream was altered")
        return self._digest.digest()

    def _check(self, payload: Readable) -> None:
        if crc32c(payload) != self.checksum:
            raise StateError(f"section {self.name}: the checksum does not match, the stream was altered")

    def _take(self, length: int) -> bytes:
        data = bytearray(length)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = self._readinto(view[done:])
            if not count:
                raise StateError(f"truncated: the stream ends in the section {self.name}")
            done += count
            self.taken += count
