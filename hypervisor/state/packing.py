"""RAM chunks in a stream, compressed where that pays.

A section ``packed`` is a section ``ram`` compressed as a whole: a Zstandard frame (RFC 8878) that says how long
its contents are.
"""

from __future__ import annotations

from typing import Final

import zstandard

from hypervisor.errors import StateError
from hypervisor.state.codec import bound
from hypervisor.state.sections import CHUNK_PAGES_MAX, Readable, SectionReader

LEVEL: Final = 1
"""Of compression. Measured with whole chunks of tern's RAM and of a shared library: level 1 makes them 8 % and
49 % at 1600 and 420 MB/s, level 3 7 % and 45 % at 1200 and 210, LZ4 12 % and 60 % at 2700 and 660. Single pages
instead of chunks: half the speed, and twice the size of tern's."""


_PACKER = zstandard.ZstdCompressor(level=LEVEL)


def compress(chunk: Readable) -> bytes:
    """A chunk as a section ``packed`` has it."""
    return _PACKER.compress(chunk)


class ChunkReader:
    """Takes the chunks out of sections ``ram`` and ``packed``."""

    def __init__(self, sections: SectionReader) -> None:
        self._sections = sections
        self._buffer = memoryview(bytearray(bound(CHUNK_PAGES_MAX)))
        self._unpacker = zstandard.ZstdDecompressor()

    def chunk(self) -> Readable:
        """The chunk in the current section, good until the next call. Raises :class:`StateError`."""
        payload = self._sections.payload_into(self._buffer)
        if self._sections.name == "ram":
            return payload
        try:
            # Looked at before memory is taken for it: what the frame says is as good as its sender.
            length = zstandard.get_frame_parameters(payload).content_size
            if length > bound(CHUNK_PAGES_MAX):
                raise StateError(
                    f"section packed: {length} bytes, a chunk has {bound(CHUNK_PAGES_MAX)} at most"
                )
            return self._unpacker.decompress(payload, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise StateError(f"section packed: {error}") from None
