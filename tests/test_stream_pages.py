"""The compiled page codec and its readable twin agree in every byte, number and refusal."""

from __future__ import annotations

import mmap
import os
import random
import struct
from array import array

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hypervisor.errors import StateError
from hypervisor.ext import pages as compiled
from hypervisor.state import pages as reference

PAGE = 4096
CODECS = pytest.mark.parametrize("codec", [compiled, reference], ids=["compiled", "reference"])


def memory(kinds: list[int], seed: int) -> bytearray:
    """RAM whose pages are empty (0), noise (1), or empty but for one bit somewhere (others)."""
    noise = random.Random(seed)
    ram = bytearray(len(kinds) * PAGE)
    for page, kind in enumerate(kinds):
        if kind == 1:
            ram[page * PAGE : (page + 1) * PAGE] = noise.randbytes(PAGE)
        elif kind:
            ram[page * PAGE + noise.randrange(PAGE)] = 1 << noise.randrange(8)
    return ram


def all_of(ram: bytearray) -> bytearray:
    return bytearray(b"\1" * (len(ram) // PAGE))


def chunk_of(codec, ram: bytearray, wanted: bytearray | None = None) -> bytes:
    """The pages of a RAM as one chunk."""
    out = bytearray(codec.bound(max(len(ram) // PAGE, 1)))
    done = codec.Encoder(ram).encode(all_of(ram) if wanted is None else wanted, 0, out)
    assert done.next == len(ram) // PAGE
    return bytes(out[done.start : done.start + done.length])


MARKS = st.sampled_from([0, 1, 1])
KINDS = st.sampled_from([0, 0, 1, 2, 3])


@st.composite
def conversations(draw: st.DrawFn) -> tuple[int, list[dict]]:
    """What an encoder is asked for in some rounds, and what the guest's pages hold in each."""
    pages = draw(st.integers(0, 12))
    marks = st.lists(MARKS, min_size=pages, max_size=pages).map(bytearray)
    rounds = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "kinds": st.lists(KINDS, min_size=pages, max_size=pages),
                    "seed": st.integers(0, 3),  # so few that pages come back, and that others are equal
                    "wanted": marks,
                    "skip": st.none() | marks,
                    "remember": st.booleans(),
                    "dedupe": st.booleans(),
                    "room": st.integers(1, 6),
                    "stretch": st.none() | st.integers(1, 5),
                }
            ),
            min_size=1,
            max_size=5,
        )
    )
    return pages, rounds


@settings(deadline=None, max_examples=200)
@given(conversations(), st.integers(0, 4))
def test_both_say_the_same_and_the_receiver_has_what_was_said(
    conversation: tuple[int, list[dict]], versions: int
) -> None:
    """An encoder with all it can do, over several rounds, and both decoders at the other end."""
    pages, rounds = conversation
    ram = bytearray(pages * PAGE)
    encoders = [codec.Encoder(ram, versions, 99) for codec in (compiled, reference)]
    theirs = [(codec, bytearray(pages * PAGE), bytearray(pages)) for codec in (compiled, reference)]
    expected = bytearray(pages * PAGE)
    for asked in rounds:
        ram[:] = memory(asked["kinds"], asked["seed"])
        present = bytearray(ram[n * PAGE : (n + 1) * PAGE] != bytes(PAGE) or n % 2 for n in range(pages))
        at, said = 0, []
        while True:
            outs = [bytearray(compiled.bound(asked["room"])) for _ in encoders]
            answers = [
                encoder.encode(
                    asked["wanted"],
                    at,
                    out,
                    skip=asked["skip"],
                    present=present,
                    until=asked["stretch"] and at + asked["stretch"],
                    remember=asked["remember"],
                    dedupe=asked["dedupe"],
                )
                for encoder, out in zip(encoders, outs, strict=True)
            ]
            assert answers[0] == answers[1]
            done = answers[0]
            assert done.next <= min(pages, at + (asked["stretch"] or pages))
            chunk = bytes(outs[0][done.start : done.start + done.length])
            assert chunk == outs[1][done.start : done.start + done.length]
            said.append(done)
            for codec, target, seen in theirs:
                found = codec.decode(chunk, target, seen)
                assert found[:4] == done[3:7]
            at = done.next
            if at >= pages:
                break
        for n in range(pages):
            if asked["wanted"][n] and not (asked["skip"] and asked["skip"][n]):
                expected[n * PAGE : (n + 1) * PAGE] = ram[n * PAGE : (n + 1) * PAGE]
        assert theirs[0][1] == theirs[1][1] == expected
        assert theirs[0][2] == theirs[1][2]
        told = sum(sum(one[3:9]) for one in said)
        assert told == asked["wanted"].count(1)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), max_size=12), st.integers(0, 1 << 16))
def test_a_ram_told_once_is_read_by_both(kinds: list[int], seed: int) -> None:
    ram = memory(kinds, seed)
    chunk = chunk_of(compiled, ram)
    assert chunk == chunk_of(reference, ram)
    for codec in (compiled, reference):
        target = bytearray(b"\xa5" * len(ram))
        answer = codec.decode(chunk, target)
        assert target == ram
        assert codec.inspect(chunk, len(ram) // PAGE) == answer
        assert answer.zero + answer.raw == len(kinds)
        assert (answer.first, answer.last) == ((0, len(kinds) - 1) if kinds else (-1, -1))
    assert compiled.classify(ram) == reference.classify(ram)
    numbers = array("I", range(len(kinds)))
    assert compiled.page_hashes(ram, numbers, seed) == reference.page_hashes(ram, numbers, seed)


def test_pages_that_come_through_the_file_behind_ram_are_the_same() -> None:
    kinds = [1, 1, 0, 1, 2, 2, 0, 0, 1, 1]
    ram = memory(kinds, 8)
    wanted = bytearray([1, 1, 1, 1, 0, 1, 1, 1, 1, 1])
    chunk = chunk_of(compiled, ram, wanted)
    file = os.memfd_create("ram")
    os.ftruncate(file, len(ram))
    with mmap.mmap(file, len(ram)) as target:
        seen = bytearray(len(kinds))
        for _ in range(2):  # the second time they are there already, and go through memory
            found = compiled.decode(chunk, target, seen, file)
            assert (found.zero, found.raw) == (3, 6)
            assert target[: 4 * PAGE] == ram[: 4 * PAGE]
            assert target[4 * PAGE : 5 * PAGE] == bytes(PAGE)
            assert target[5 * PAGE :] == ram[5 * PAGE :]
            assert seen == wanted
        # A file that cannot be written to is as good as none.
        assert compiled.decode(chunk, target, bytearray(len(kinds)), 10**6) == found
    os.close(file)


@CODECS
def test_what_changed_little_is_told_shortly(codec) -> None:
    ram = memory([1, 1, 1, 0, 0, 0, 1], 5)
    ram[PAGE : 2 * PAGE] = ram[:PAGE]
    encoder = codec.Encoder(ram, versions=8)
    out = bytearray(codec.bound(8))
    first = encoder.encode(all_of(ram), 0, out, remember=True, dedupe=True)
    assert (first.zero, first.raw, first.copied, first.length) == (3, 3, 1, 8 + 5 * 8 + 3 * PAGE + 4)
    ram[100] ^= 1
    again = encoder.encode(all_of(ram), 0, out, remember=True)
    assert (again.zero, again.delta, again.unchanged) == (3, 1, 3)
    assert again.length == 8 + 2 * 8 + 4 + 8


@CODECS
def test_a_page_that_is_known_to_be_empty_is_not_looked_at(codec) -> None:
    ram = memory([1, 1], 1)
    done = codec.Encoder(ram).encode(all_of(ram), 0, bytearray(codec.bound(2)), present=b"\0\1")
    assert (done.zero, done.raw) == (1, 1)


@CODECS
def test_a_long_run_of_empty_pages_is_told_in_few_entries(codec) -> None:
    ram = bytearray(65536 * PAGE if codec is compiled else 70 * PAGE)
    pages = len(ram) // PAGE
    out = bytearray(codec.bound(2))
    done = codec.Encoder(ram).encode(all_of(ram), 0, out, present=bytes(pages))
    assert (done.next, done.zero) == (pages, pages)
    assert done.length == 8 + (16 if codec is compiled else 8)
    chunk = out[done.start : done.start + done.length]
    assert codec.decode(chunk, ram, bytearray(pages)).last == pages - 1


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 64))
@example(b"\0" * 8, 0)
@example(struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + b"\0" * 64, 64)
def test_noise_is_refused_alike_and_changes_nothing(chunk: bytes, pages: int) -> None:
    answers = []
    for codec in (compiled, reference):
        ram = bytearray(b"\xa5" * pages * PAGE)
        try:
            answers.append(codec.decode(chunk, ram, bytearray(pages)))
        except StateError as error:
            answers.append(str(error))
            assert ram == b"\xa5" * pages * PAGE
    assert answers[0] == answers[1]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_an_altered_chunk_is_treated_alike_and_writes_only_its_pages(data: st.DataObject) -> None:
    """Structure-aware: one field of a good chunk is replaced, or the chunk is cut or grown."""
    pages = 9
    ram = memory([1, 0, 2, 1, 0, 0, 3, 1, 1], 3)
    ram[7 * PAGE : 8 * PAGE] = ram[:PAGE]
    encoder, out = compiled.Encoder(ram, pages), bytearray(compiled.bound(pages))
    done = encoder.encode(all_of(ram), 0, out, remember=True, dedupe=True)
    first = bytes(out[done.start : done.start + done.length])
    ram[8 : 8 * PAGE : 700] = bytes(len(range(8, 8 * PAGE, 700)))
    done = encoder.encode(all_of(ram), 0, out, remember=True, dedupe=True)
    good = bytearray(out[done.start : done.start + done.length])
    entries = struct.unpack_from("<I", good)[0]
    assert done.delta
    fields = [
        (0, 4),
        (4, 4),
        *((8 + 8 * n + o, w) for n in range(entries) for o, w in ((0, 4), (4, 2), (6, 2))),
    ]
    fields += [(at, 2) for at in range(8 + 8 * entries, len(good), 2)]
    offset, width = data.draw(st.sampled_from(fields))
    value = data.draw(
        st.integers(0, 6) | st.sampled_from([4095, 4096, 4097, 8192]) | st.integers(0, (1 << 8 * width) - 1)
    )
    good[offset : offset + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    cut = data.draw(st.sampled_from([None, None, -1, -4, -4096, 8, 7, 0]))
    chunk = bytes(good[:cut]) + data.draw(st.sampled_from([b"", b"", b"\0", b"\0" * 4096]))
    fresh = data.draw(st.booleans())
    # Guard pages on both sides: a write outside RAM would show.
    answers = []
    for codec in (compiled, reference):
        around = bytearray(b"\x5a" * (pages + 2) * PAGE)
        inside = memoryview(around)[PAGE:-PAGE]
        inside[:] = bytes(len(inside))
        seen = bytearray(pages)
        if not fresh:
            codec.decode(first, inside, seen)
        before = bytes(inside)
        try:
            answers.append(codec.decode(chunk, inside, seen))
        except StateError as error:
            answers.append(str(error))
        said = answers[-1]
        assert not isinstance(said, str) or inside == before or "has not come yet" in said
        assert around[:PAGE] == around[-PAGE:] == b"\x5a" * PAGE
        answers.append((bytes(inside), bytes(seen)))
    assert answers[:2] == answers[2:]


@CODECS
@pytest.mark.parametrize("encoding", [2, 3])
def test_what_refers_to_another_version_has_no_place_where_pages_come_once(codec, encoding: int) -> None:
    chunk = struct.pack("<IIIHHI", 1, 4, 0, encoding, 4, 0)
    for use in (lambda: codec.decode(chunk, bytearray(PAGE)), lambda: codec.inspect(chunk, 1)):
        with pytest.raises(StateError, match="page 0 is told by another version of it"):
            use()


@CODECS
def test_an_unknown_encoding_is_refused(codec) -> None:
    with pytest.raises(StateError, match="page 0 has encoding 77, which this version does not read"):
        codec.decode(struct.pack("<IIIHH", 1, 100, 0, 77, 100) + bytes(100), bytearray(PAGE))


@CODECS
def test_nothing_refers_to_a_page_that_has_not_come(codec) -> None:
    for body in (struct.pack("<HHQ", 0, 1, 5), struct.pack("<I", 1)):
        encoding = 2 if len(body) > 4 else 3
        chunk = struct.pack("<IIIHH", 1, len(body), 0, encoding, len(body)) + body
        with pytest.raises(StateError, match="page 0 refers to a page that has not come yet"):
            codec.decode(chunk, bytearray(2 * PAGE), bytearray(2))


@CODECS
def test_a_page_that_became_empty_is_emptied(codec) -> None:
    chunk = struct.pack("<IIIHH", 1, 0, 1, 0, 1)
    ram = bytearray(b"\xff" * 2 * PAGE)
    codec.decode(chunk, ram)
    assert ram == b"\xff" * PAGE + bytes(PAGE)


@CODECS
def test_wrong_calls_raise_instead_of_reaching_memory(codec) -> None:
    ram = bytearray(2 * PAGE)
    room = bytearray(codec.bound(2))
    for numbers in ([2], [0xFFFFFFFF], [1, 0], [1, 1]):
        with pytest.raises(ValueError, match="page"):
            codec.page_hashes(ram, array("I", numbers))
    encoder = codec.Encoder(ram)
    for wrong in ({"wanted": b"\1"}, {"skip": b"\1" * 3}, {"present": b""}):
        with pytest.raises(ValueError, match="marks for 2 pages"):
            encoder.encode(**{"wanted": b"\1\1", "first": 0, "out": room} | wrong)
    with pytest.raises(ValueError, match="marks for 2 pages"):
        codec.decode(chunk_of(codec, ram), ram, bytearray(1))
    with pytest.raises(ValueError, match="needs room"):
        encoder.encode(b"\1\1", 0, bytearray(codec.bound(1) - 1))
    with pytest.raises(ValueError, match="whole number"):
        codec.classify(ram[:-1])


CRC_VECTORS = [  # RFC 3720, B.4
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
    (b"123456789", 0xE3069283),
    (b"", 0),
]


@pytest.mark.parametrize(("data", "crc"), CRC_VECTORS)
def test_crc32c_of_the_standard_vectors(data: bytes, crc: int) -> None:
    assert reference.crc32c(data) == compiled.crc32c(data) == compiled.crc32c(data, hardware=False) == crc


@settings(deadline=None)
@given(st.integers(0, 20000), st.integers(0, 20000), st.integers(0, 15), st.integers(0, 1 << 16))
@example(3072, 0, 0, 0)
@example(6145, 3071, 1, 0)
def test_crc32c_by_instruction_equals_the_table(length: int, split: int, skew: int, seed: int) -> None:
    data = memoryview(random.Random(seed).randbytes(length + skew))[skew:]  # unaligned on purpose
    split = min(split, length)
    expected = reference.crc32c(data)
    for hardware in (True, False):
        assert compiled.crc32c(data, hardware=hardware) == expected
        first = compiled.crc32c(data[:split], hardware=hardware)
        assert compiled.crc32c(data[split:], first, hardware=hardware) == expected


def test_page_hash_is_xxh64() -> None:
    # As `xxhsum -H1` says for 4096 zero bytes and for 4096 bytes that count up.
    ram = bytes(PAGE) + bytes(range(256)) * 16
    expected = array("Q", [0xAC869B6F32D8BBDB, 0x0F6E64BE186AF6A4])
    assert reference.page_hashes(ram, array("I", [0, 1])) == expected
    assert compiled.page_hashes(ram, array("I", [0, 1])) == expected
