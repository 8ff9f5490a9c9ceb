"""The compiled page codec and its readable twin agree in every byte, number and refusal."""

from __future__ import annotations

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


@st.composite
def memories(draw: st.DrawFn) -> tuple[bytearray, array]:
    kinds = draw(st.lists(st.integers(0, 2), min_size=0, max_size=12))
    chosen = draw(st.sets(st.integers(0, len(kinds) - 1))) if kinds else set()
    return memory(kinds, draw(st.integers(0, 1 << 16))), array("I", sorted(chosen))


@settings(deadline=None)
@given(memories())
def test_both_give_equal_bytes_and_read_each_other(case: tuple[bytearray, array]) -> None:
    ram, numbers = case
    room = reference.bound(len(numbers))
    assert compiled.bound(len(numbers)) == room
    ours, theirs = bytearray(room), bytearray(room)
    length = compiled.encode(ram, numbers, ours)
    assert reference.encode(ram, numbers, theirs) == length
    assert ours == theirs
    chunk = bytes(ours[:length])
    expected = bytearray(b"\xa5" * len(ram))
    for number in numbers:
        expected[number * PAGE : (number + 1) * PAGE] = ram[number * PAGE : (number + 1) * PAGE]
    for codec in (compiled, reference):
        target = bytearray(b"\xa5" * len(ram))
        answer = codec.decode(chunk, target)
        assert target == expected
        assert codec.inspect(chunk, len(ram) // PAGE) == answer
        assert answer[0] + answer[1] == len(numbers)
        assert answer[2:] == ((numbers[0], numbers[-1]) if numbers else (-1, -1))
    assert compiled.classify(ram) == reference.classify(ram)
    assert compiled.page_hashes(ram, numbers) == reference.page_hashes(ram, numbers)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 64))
@example(b"\0" * 8, 0)
@example(struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + b"\0" * 64, 64)
def test_noise_is_refused_alike_and_changes_nothing(chunk: bytes, pages: int) -> None:
    answers = []
    for codec in (compiled, reference):
        ram = bytearray(b"\xa5" * pages * PAGE)
        try:
            answers.append(codec.decode(chunk, ram))
        except StateError as error:
            answers.append(str(error))
            assert ram == b"\xa5" * pages * PAGE
    assert answers[0] == answers[1]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_an_altered_chunk_is_treated_alike_and_writes_only_its_pages(data: st.DataObject) -> None:
    """Structure-aware: one field of a good chunk is replaced, or the chunk is cut or grown."""
    ram = memory([1, 0, 2, 1, 0], 3)
    numbers = array("I", [0, 1, 3])
    good = bytearray(compiled.bound(3))
    del good[compiled.encode(ram, numbers, good) :]
    offset, width = data.draw(
        st.sampled_from(
            [(0, 4), (4, 4), *((8 + 8 * n + o, w) for n in range(3) for o, w in ((0, 4), (4, 2), (6, 2)))]
        )
    )
    value = data.draw(
        st.integers(0, 6) | st.sampled_from([4095, 4096, 4097, 8192]) | st.integers(0, (1 << 8 * width) - 1)
    )
    good[offset : offset + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    cut = data.draw(st.sampled_from([None, None, -1, -4096, 8, 7, 0]))
    chunk = bytes(good[:cut]) + data.draw(st.sampled_from([b"", b"", b"\0", b"\0" * 4096]))
    # Guard pages on both sides: a write outside RAM would show.
    answers = []
    for codec in (compiled, reference):
        around = bytearray(b"\x5a" * 7 * PAGE)
        try:
            answers.append(codec.decode(chunk, memoryview(around)[PAGE : 6 * PAGE]))
        except StateError as error:
            answers.append(str(error))
            assert around == b"\x5a" * 7 * PAGE
        assert around[:PAGE] == around[6 * PAGE :] == b"\x5a" * PAGE
        answers.append(bytes(around))
    assert answers[:2] == answers[2:]


@CODECS
def test_reserved_encodings_are_refused_by_name(codec) -> None:
    for encoding, name in ((2, "delta"), (3, "compressed"), (77, "77")):
        chunk = struct.pack("<IIIHH", 1, 100, 0, encoding, 100) + bytes(100)
        with pytest.raises(StateError, match=f"page 0 has encoding {name}, which this version does not read"):
            codec.decode(chunk, bytearray(PAGE))


@CODECS
def test_a_page_that_became_empty_is_emptied(codec) -> None:
    chunk = struct.pack("<IIIHH", 1, 0, 1, 0, 0)
    ram = bytearray(b"\xff" * 2 * PAGE)
    codec.decode(chunk, ram)
    assert ram == b"\xff" * PAGE + bytes(PAGE)


@CODECS
def test_wrong_calls_raise_instead_of_reaching_memory(codec) -> None:
    ram = bytearray(2 * PAGE)
    room = bytearray(codec.bound(2))
    for numbers in ([2], [0xFFFFFFFF], [1, 0], [1, 1]):
        with pytest.raises(ValueError, match="page"):
            codec.encode(ram, array("I", numbers), room)
        with pytest.raises(ValueError, match="page"):
            codec.page_hashes(ram, array("I", numbers))
    with pytest.raises(ValueError, match="needs room"):
        codec.encode(ram, array("I", [0, 1]), room[:-1])
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
