"""A stream says what the machine was, or it is refused; nothing in between."""

from __future__ import annotations

import io
import random
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from state_samples import MEMORY, from_bytes, sample_ram, sample_state, to_bytes

from hypervisor.errors import StateError
from hypervisor.state.codec import crc32c
from hypervisor.state.model import DeviceState, MachineState
from hypervisor.state.parts import Configuration, unpack
from hypervisor.state.sections import HEADER, LIMITS, SECTION, ReadInto
from hypervisor.state.stream import StreamReader, write_stream


@pytest.fixture(scope="module")
def stream() -> bytes:
    return to_bytes(sample_state(), sample_ram())


def sections(stream: bytes) -> list[tuple[str, int, int]]:
    """Name, start and end of each section."""
    found, at = [], HEADER.size
    while at < len(stream):
        name, _, length, _, _ = SECTION.unpack_from(stream, at)
        found.append((name.rstrip(b"\0").decode(), at, at + SECTION.size + length))
        at += SECTION.size + length
    return found


def forge(
    stream: bytes,
    index: int,
    *,
    payload: bytes | None = None,
    name: bytes | None = None,
    length: int | None = None,
) -> bytes:
    """A stream with one section replaced and every CRC of it right: what a hostile peer would send."""
    _, start, end = sections(stream)[index]
    old_name, number, _, _, _ = SECTION.unpack_from(stream, start)
    data = stream[start + SECTION.size : end] if payload is None else payload
    head = SECTION.pack(name or old_name, number, len(data) if length is None else length, crc32c(data), 0)[
        :-4
    ]
    return stream[:start] + head + struct.pack("<I", crc32c(head)) + data + stream[end:]


def check(readinto: ReadInto) -> None:
    reader = StreamReader(readinto)
    reader.read_state()
    reader.read_ram(None)


def test_a_machine_comes_back_equal(stream: bytes) -> None:
    state, ram, summary = from_bytes(stream)
    assert state == sample_state()
    assert ram == sample_ram()
    assert (summary.length, summary.zero, summary.normal) == (len(stream), MEMORY // 4096 - 6, 6)


def test_saving_twice_gives_equal_bytes(stream: bytes) -> None:
    shuffled = sample_state()
    devices = dict(reversed(shuffled.devices.items()))
    assert to_bytes(msgspec.structs.replace(shuffled, devices=devices), sample_ram()) == stream


def test_every_single_bit_flip_of_5000_is_detected(stream: bytes) -> None:
    choose = random.Random(5000)
    # Every bit of the frame and the state, and as many of the RAM chunks as make it 5,000.
    small = [
        bit for name, start, end in sections(stream) if name != "ram" for bit in range(start * 8, end * 8)
    ]
    flips = set(range(HEADER.size * 8)) | set(choose.sample(small, 2500))
    while len(flips) < 5000:
        flips.add(choose.randrange(len(stream) * 8))
    for bit in flips:
        altered = bytearray(stream)
        altered[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(StateError):
            from_bytes(bytes(altered))


def test_truncation_at_every_byte_is_detected() -> None:
    stream = to_bytes(sample_state(), sample_ram(filled=2))
    _, ram_start, _ = next(section for section in sections(stream) if section[0] == "ram")
    _, end_start, _ = sections(stream)[-1]
    points = [*range(ram_start + 600), *range(ram_start + 600, end_start, 97), *range(end_start, len(stream))]
    for length in points:
        with pytest.raises(StateError, match="truncated"):
            from_bytes(stream[:length])


def test_sections_in_another_order_are_refused(stream: bytes) -> None:
    found = sections(stream)
    for a in range(len(found) - 1):
        (_, start, middle), (_, _, end) = found[a], found[a + 1]
        swapped = stream[:start] + stream[middle:end] + stream[start:middle] + stream[end:]
        with pytest.raises(StateError):
            from_bytes(swapped)


def test_a_missing_section_is_refused_even_when_renumbered(stream: bytes) -> None:
    for victim in range(len(sections(stream)) - 1):
        out = bytearray(stream[: HEADER.size])
        kept = [s for n, s in enumerate(sections(stream)) if n != victim]
        for number, (_, start, end) in enumerate(kept):
            name, _, length, crc, _ = SECTION.unpack_from(stream, start)
            head = SECTION.pack(name, number, length, crc, 0)[:-4]
            out += head + struct.pack("<I", crc32c(head)) + stream[start + SECTION.size : end]
        with pytest.raises(StateError):
            from_bytes(bytes(out))


def test_another_version_is_refused_in_one_line_that_names_both(stream: bytes) -> None:
    for version, state_version in ((1, 2), (2, 9)):
        body = HEADER.pack(stream[:8], version, state_version, 0, 0)[:-4]
        other = body + struct.pack("<I", crc32c(body)) + stream[HEADER.size :]
        with pytest.raises(StateError) as refusal:
            from_bytes(other)
        assert f"format version {version} and state version {state_version}" in str(refusal.value)
        assert "reads format version 2 and state version 2" in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_an_unknown_section_is_refused_by_name(stream: bytes) -> None:
    with pytest.raises(StateError, match="section 'balloon' is not known"):
        from_bytes(forge(stream, 2, name=b"balloon"))


ELSEWHERE = {"round", "packed", "parent", "absent", "snapshot", "journal"}
"""Sections that the file of a machine does not have."""


@pytest.mark.parametrize("name", sorted(LIMITS.keys() - ELSEWHERE))
def test_a_length_beyond_its_limit_is_refused_before_anything_is_read(stream: bytes, name: str) -> None:
    index = next(n for n, section in enumerate(sections(stream)) if section[0] == name)
    asked = 0
    for length in (LIMITS[name] + 1, 0xFFFFFFFF):
        source = io.BytesIO(forge(stream, index, length=length))

        def readinto(view: memoryview, source: io.BytesIO = source) -> int:
            nonlocal asked
            asked = max(asked, len(view))
            return source.readinto(view)

        with pytest.raises(StateError, match=f"section {name}: {length} bytes, the format allows"):
            check(readinto)
        assert asked < 1 << 19


def test_a_count_inside_a_state_takes_no_memory(stream: bytes) -> None:
    for bomb in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 60000):
        for index in range(6):
            payload = bomb[: LIMITS[sections(stream)[index][0]]]
            with pytest.raises(StateError, match="section"):
                from_bytes(forge(stream, index, payload=payload))


def test_a_wrong_field_is_named_with_its_section(stream: bytes) -> None:
    cpu = msgspec.to_builtins(sample_state().cpu)
    cpu["gdtr"]["limit"] = 1 << 16
    with pytest.raises(StateError, match=r"^section cpu: field gdtr\.limit: Expected"):
        from_bytes(forge(stream, 1, payload=msgspec.msgpack.encode(cpu)))
    device = {"name": "pic", "version": "one", "fields": {}}
    with pytest.raises(StateError, match=r"^section device: field version: Expected `int`"):
        from_bytes(forge(stream, 3, payload=msgspec.msgpack.encode(device)))


def test_a_device_that_the_configuration_names_must_be_there() -> None:
    state = sample_state()
    devices = {name: device for name, device in state.devices.items() if name != "pit"}
    with pytest.raises(StateError, match="'pit'"):
        from_bytes(to_bytes(msgspec.structs.replace(state, devices=devices), sample_ram()))


def test_what_msgpack_cannot_hold_is_refused_when_writing() -> None:
    state = sample_state()
    devices = {**state.devices, "pit": DeviceState(1, {"count": 1 << 64})}
    with pytest.raises(StateError, match="section device pit"):
        to_bytes(msgspec.structs.replace(state, devices=devices), sample_ram())


def test_ram_of_another_size_is_refused(stream: bytes) -> None:
    with pytest.raises(StateError, match="RAM has 4096 bytes"):
        write_stream(sample_state(), memoryview(bytearray(4096)), bytearray().extend)
    reader = StreamReader(io.BytesIO(stream).readinto)
    reader.read_state()
    with pytest.raises(StateError, match="RAM has 4096 bytes"):
        reader.read_ram(memoryview(bytearray(4096)))


def test_progress_ends_at_the_size_of_ram(stream: bytes) -> None:
    calls: list[tuple[int, int]] = []
    write_stream(sample_state(), memoryview(sample_ram()), len, progress=lambda *call: calls.append(call))
    assert calls[-1] == (MEMORY, MEMORY)
    assert calls == sorted(calls)
    written = calls.copy()
    calls.clear()
    reader = StreamReader(io.BytesIO(stream).readinto)
    reader.read_state()
    reader.read_ram(None, progress=lambda *call: calls.append(call))
    assert calls == written


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.binary(max_size=40)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
device_states = st.builds(
    DeviceState, st.integers(0, 1 << 31), st.dictionaries(st.text(max_size=12), plain, max_size=5)
)
word = st.integers(0, 0xFFFFFFFF)


@st.composite
def machines(draw: st.DrawFn) -> MachineState:
    state = sample_state(epoch=draw(st.integers(0, (1 << 63) - 1)))
    cpu = msgspec.structs.replace(
        state.cpu,
        general=draw(st.tuples(*[word] * 8)),
        eip=draw(word),
        fpu=draw(st.binary(min_size=512, max_size=512)),
        msrs=draw(st.dictionaries(word, st.integers(0, (1 << 64) - 1), max_size=8)),
        halted=draw(st.booleans()),
    )
    names = st.text(st.characters(codec="ascii", categories=("Ll", "Nd")), min_size=1, max_size=12)
    devices = draw(st.dictionaries(names, device_states, max_size=5))
    config = msgspec.structs.replace(state.config, devices=tuple(devices))
    return msgspec.structs.replace(state, cpu=cpu, devices=devices, config=config)


@settings(max_examples=150, deadline=None)
@given(machines(), st.integers(0, 1 << 32), st.integers(2, 40))
def test_any_machine_comes_back_equal(state: MachineState, seed: int, filled: int) -> None:
    ram = sample_ram(seed=seed, filled=filled)
    stream = to_bytes(state, ram)
    again, memory, _ = from_bytes(stream)
    assert (again, memory) == (state, ram)
    assert to_bytes(again, memory) == stream


def test_a_name_in_a_stream_cannot_break_the_line_that_refuses_it():
    """Nor send control sequences to the terminal of whoever reads it."""
    with pytest.raises(StateError) as refused:
        unpack(msgspec.msgpack.encode({"epoc\n\x1b[2J": 1}), Configuration, "section config")
    assert str(refused.value) == r"section config: Object contains unknown field `epoc\n\x1b[2J`"
