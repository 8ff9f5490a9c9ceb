"""Encodings are chosen by what they achieve on the link at hand."""

from __future__ import annotations

import random
import struct
import time
from types import SimpleNamespace

import pytest
import zstandard
from state_samples import sample_ram, sample_state

from hypervisor.errors import StateError
from hypervisor.migration.encoding import Deduplication, Link, Packer
from hypervisor.state.codec import Encoder, bound, crc32c
from hypervisor.state.live import LiveReader, LiveWriter
from hypervisor.state.packing import compress
from hypervisor.state.parts import Configuration
from hypervisor.state.sections import CHUNK_PAGES_MAX, SECTION

FAST, SLOW = 4e9, 10e6
TEXT = b"all work and no play makes jack a dull boy " * 3000
NOISE = random.Random(1).randbytes(1 << 17)


def link(rate: float | None) -> Link:
    return SimpleNamespace(rate=rate)  # type: ignore[return-value]


def test_a_link_is_as_fast_as_it_takes_what_is_written() -> None:
    slow = Link(lambda data: time.sleep(len(data) / 100e6))
    slow.write(bytes(1 << 18))
    assert slow.rate is None  # that may have gone into a buffer
    for _ in range(4):
        slow.write(bytes(1 << 18))
    assert slow.rate is not None
    assert 10e6 < slow.rate <= 100e6


def test_chunks_are_compressed_on_a_slow_link_only() -> None:
    assert Packer(link(FAST))(TEXT) is None
    assert Packer(link(None))(TEXT) is None
    packed = Packer(link(SLOW))(TEXT)
    assert packed is not None
    assert zstandard.decompress(packed) == TEXT


def test_what_cannot_be_compressed_is_given_up_and_tried_again_at_times() -> None:
    """1.3 GB/s is a link that compression keeps up with only if it achieves much."""
    packer = Packer(link(300e6))
    for _ in range(20):
        assert packer(NOISE) is None
    assert packer._passed  # it does not even try any more
    assert not packer.chunks
    for _ in range(200):
        packer(TEXT)
    assert packer.chunks


def test_equal_pages_are_looked_for_while_enough_are_found() -> None:
    assert not Deduplication(link(None)).pays
    assert not Deduplication(link(FAST)).pays
    slow = Deduplication(link(100e6))
    assert slow.pays
    slow.note(0, 5000)
    assert not slow.pays
    slow.note(500, 0)
    assert slow.pays


# ----------------------------------------------------------------------- the section of a compressed chunk


def written_ram() -> bytearray:
    """Text between pages of noise."""
    ram = sample_ram()
    ram[8192 : 8192 + len(TEXT)] = TEXT
    return ram


def stream(pack_chunk) -> bytes:
    state = sample_state()
    out = bytearray()
    head = Configuration(state.config, state.identity, state.epoch)
    writer = LiveWriter(out.extend, head, Encoder(written_ram()), pack_chunk)
    pages = state.config.memory // 4096
    assert writer.pages(b"\1" * pages, 0).next == pages
    writer.finish(state)
    return bytes(out)


def receive(data: bytes) -> bytearray:
    left = memoryview(data)

    def readinto(view: memoryview) -> int:
        nonlocal left
        count = min(len(view), len(left))
        view[:count] = left[:count]
        left = left[count:]
        return count

    ram = bytearray(sample_state().config.memory)
    state, _ = LiveReader(readinto).receive(memoryview(ram))
    assert state == sample_state()
    return ram


def test_a_compressed_chunk_arrives() -> None:
    plain, packed = stream(lambda chunk: None), stream(compress)
    assert b"packed\0\0" in packed
    assert b"ram\0" not in packed
    assert len(packed) < len(plain)
    assert receive(plain) == receive(packed) == written_ram()


def hostile(payload: bytes) -> bytes:
    """A stream whose compressed chunk is something else."""
    good = stream(compress)
    start = good.index(b"packed\0\0")
    name, index, length, _, _ = SECTION.unpack_from(good, start)
    head = SECTION.pack(name, index, len(payload), crc32c(payload), 0)[:-4]
    head += struct.pack("<I", crc32c(head))
    return good[:start] + head + payload + good[start + SECTION.size + length :]


LIMIT = bound(CHUNK_PAGES_MAX)
UNSAID = zstandard.ZstdCompressor(write_content_size=False)


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"", "section packed: "),
        (b"no frame at all, whatever it may be", "section packed: "),
        (compress(bytes(LIMIT + 1)), f"a chunk has {LIMIT} at most"),
        (compress(bytes(64 << 20)), f"a chunk has {LIMIT} at most"),
        (UNSAID.compress(bytes(1 << 28)), f"a chunk has {LIMIT} at most"),
        (compress(bytes(100))[:-1], "section packed: "),
        (compress(bytes(100)) + b"x", "section packed: "),
        (compress(struct.pack("<II", 0, 0)), "0 pages in a round"),
        (compress(b"short"), "shorter than its own header"),
    ],
    ids=["empty", "noise", "long", "bomb", "bomb of unknown size", "cut", "more", "no pages", "no chunk"],
)
def test_a_bad_frame_is_refused_before_it_takes_memory(payload: bytes, complaint: str) -> None:
    with pytest.raises(StateError) as caught:
        receive(hostile(payload))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
