"""The assembled machine: time, deadlines, state."""

from __future__ import annotations

import copy
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from port_script import MEMORY, MemoryDisk, Recorder

from hypervisor.devices.isa_pc import IsaPc
from hypervisor.errors import StateError
from hypervisor.state.model import DeviceState, encode

Action = Callable[[IsaPc], object]

PIC_SETUP = (
    (0x20, 0x11),
    (0x21, 0x20),
    (0x21, 0x04),
    (0x21, 0x01),
    (0xA0, 0x11),
    (0xA1, 0x28),
    (0xA1, 2),
    (0xA1, 1),
)


class BlankDisk(MemoryDisk):
    """It forgets what is written, so that machines can be compared and restored without it."""

    def __init__(self) -> None:
        super().__init__(bytes(100 * 512))

    def write(self, sector: int, data: bytes) -> bool:
        return True


def new_machine() -> Recorder:
    return Recorder(memory=1 << 20, disks=[BlankDisk()])


def out(port: int, *values: int) -> Action:
    def act(pc: IsaPc) -> None:
        for value in values:
            pc.write_port(port, 1, value)

    act.__name__ = f"out({port:#x}, {', '.join(map(hex, values))})"
    return act


def inb(port: int) -> Action:
    def act(pc: IsaPc) -> int:
        return pc.read_port(port, 1)

    act.__name__ = f"inb({port:#x})"
    return act


def cmos(index: int, value: int) -> Action:
    def act(pc: IsaPc) -> None:
        pc.write_port(0x70, 1, index)
        pc.write_port(0x71, 1, value)

    act.__name__ = f"cmos({index:#x}, {value:#x})"
    return act


def read_register_c(pc: IsaPc) -> int:
    pc.write_port(0x70, 1, 0x0C)
    return pc.read_port(0x71, 1)


def take_interrupt(pc: IsaPc) -> int:
    """Acknowledge and end it, as a handler would."""
    if not pc.interrupt:
        return -1
    vector = pc.acknowledge()
    if vector >= 0x28:
        pc.write_port(0xA0, 1, 0x20)
    pc.write_port(0x20, 1, 0x20)
    return vector


def acknowledge_only(pc: IsaPc) -> int:
    return pc.acknowledge() if pc.interrupt else -1


def receive(pc: IsaPc) -> None:
    pc.receive(b"input")


def reset_pics(pc: IsaPc) -> None:
    for port, value in PIC_SETUP:
        pc.write_port(port, 1, value)


def program_timer(mode: int, low: int, high: int, bcd: int) -> Action:
    def act(pc: IsaPc) -> None:
        out(0x43, 0x30 | mode << 1 | bcd)(pc)
        out(0x40, low, high)(pc)

    act.__name__ = f"program_timer({mode}, {high << 8 | low}, {bcd})"
    return act


def program_uart(enable: int, fifo: int) -> Action:
    def act(pc: IsaPc) -> None:
        out(0x3FA, fifo)(pc)
        out(0x3F9, enable)(pc)

    act.__name__ = f"program_uart({enable}, {fifo:#x})"
    return act


def program_rtc(rate: int, enable: int, second: int) -> Action:
    def act(pc: IsaPc) -> None:
        for index, value in ((0x0A, 0x20 | rate), (1, second), (3, 0xC0), (5, 0xC0), (0x0B, 0x02 | enable)):
            cmos(index, value)(pc)

    act.__name__ = f"program_rtc({rate}, {enable:#x}, {second:#x})"
    return act


def command_drive(code: int, sector: int, count: int) -> Action:
    def act(pc: IsaPc) -> None:
        for place, value in ((2, count), (3, sector), (4, 0), (5, 0), (6, 0xE0), (7, code)):
            pc.write_port(0x1F0 + place, 1, value)

    act.__name__ = f"command_drive({code:#x}, {sector}, {count})"
    return act


def move_sector_in(pc: IsaPc) -> list[int]:
    return [pc.read_port(0x1F0, 2) for _ in range(256)]


def move_sector_out(pc: IsaPc) -> None:
    for value in range(128):
        pc.write_port(0x1F0, 4, value)


def poll_interrupt(pc: IsaPc) -> int:
    pc.write_port(0x20, 1, 0x0C)
    return pc.read_port(0x20, 1)


TIMERS = st.builds(
    program_timer,
    st.sampled_from([2, 2, 3, 0, 1, 4, 5, 6]),
    st.integers(0, 120),
    st.integers(0, 1),
    st.booleans(),
)
UARTS = st.builds(program_uart, st.integers(0, 3), st.sampled_from([0, 0x01, 0x41, 0xC7]))
RTCS = st.builds(
    program_rtc,
    st.integers(0, 15),
    st.sampled_from([0, 0x10, 0x20, 0x40, 0x70]),
    st.sampled_from([0, 1, 0xC0]),
)
DRIVES = st.builds(
    command_drive,
    st.sampled_from([0x20, 0x20, 0x30, 0x30, 0xC4, 0xC5, 0xE7, 0xEC, 0x90, 0x10, 0xEF, 0x00]),
    st.sampled_from([0, 97, 99, 100]),
    st.integers(0, 3),
)
MASKS = st.sampled_from([0, 0, 1, 0x10, 0x11, 0xFB, 0xFF])
ACTIONS = st.one_of(
    st.sampled_from([take_interrupt, acknowledge_only, poll_interrupt, read_register_c, receive]),
    st.sampled_from([take_interrupt, take_interrupt, reset_pics]),
    st.builds(out, st.just(0x21), MASKS),
    st.builds(out, st.just(0x20), st.sampled_from([0x20, 0x20, 0x0A, 0x60, 0x68, 0x48, 0xA0, 0xC3, 0x80])),
    st.builds(out, st.just(0xA0), st.sampled_from([0x20, 0x0B, 0x0C])),
    st.builds(out, st.just(0xA1), st.sampled_from([0, 1, 0xFF])),
    st.builds(inb, st.sampled_from([0x20, 0x21, 0xA0, 0x40, 0x42, 0x61, 0x3F8, 0x3FA, 0x3FD, 0x60])),
    TIMERS,
    st.builds(out, st.just(0x43), st.integers(0, 255)),
    st.builds(out, st.just(0x40), st.integers(0, 255)),
    UARTS,
    RTCS,
    DRIVES,
    st.sampled_from([move_sector_in, move_sector_out]),
    st.builds(inb, st.sampled_from([0x1F7, 0x1F1, 0x1F2, 0x3F6])),
    st.builds(out, st.just(0x3F6), st.sampled_from([0, 0, 2, 4])),
)
PAUSES = st.one_of(st.integers(0, 3000), st.integers(0, 200_000), st.integers(0, 5_000_000_000))
HISTORIES = st.builds(
    lambda timer, uart, rtc, mask, rest: [
        (0, reset_pics),
        (7, timer),
        (0, uart),
        (0, rtc),
        (0, out(0x21, mask)),
        *rest,
    ],
    TIMERS,
    UARTS,
    RTCS,
    MASKS,
    st.lists(st.tuples(PAUSES, ACTIONS), max_size=20),
)
searching = settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


def go_event_by_event(machine: Recorder, until: int) -> None:
    """Advance to every single event inside the devices, up to so many, and to moments in between."""
    pc = machine.pc
    for _ in range(500):
        events = [pc.pit.change, pc.uart.timeout, pc.ide.due, (pc.rtc.updated + 1) * 10**9 - pc.rtc.origin]
        if pc.rtc.periodic is not None:
            events.append(-(-pc.rtc.periodic * 10**9 // 32768))
        event = min(event for event in events if event is not None)
        if event > until:
            break
        machine.go((machine.clock.now + event) // 2)
        machine.go(event)
    machine.go(until)


@searching
@given(HISTORIES)
def test_advancing_late_or_often_makes_no_difference(history):
    """One machine is advanced only for its deadlines, the other at every edge and in between."""
    lazy, busy = new_machine(), new_machine()
    for pause, action in history:
        until = lazy.clock.now + pause
        go_event_by_event(busy, until)
        deadline = lazy.pc.next_deadline()
        lazy.clock.now = until
        if deadline is not None and deadline <= until:
            lazy.go(until)
        assert busy.pc.interrupt == lazy.pc.interrupt
        assert action(busy.pc) == action(lazy.pc)
        assert busy.pc.interrupt == lazy.pc.interrupt
    assert busy.pc.state() == lazy.pc.state()
    assert busy.pc.next_deadline() == lazy.pc.next_deadline()


def test_a_square_wave_seen_late_in_its_low_half_has_had_its_edge():
    machine = new_machine()
    pc = machine.pc
    reset_pics(pc)
    program_timer(3, 0, 1, 0)(pc)
    assert acknowledge_only(pc) == 0x20  # the wave begins high
    period = 256 * 10**9 // 1_193_182
    machine.clock.now += 10 * period + period * 3 // 4
    out(0x20, 0x20)(pc)
    assert pc.interrupt


@searching
@given(HISTORIES)
def test_intr_never_rises_without_a_deadline(history):
    """Who stops at every deadline, and nowhere else, sees INTR rise at the nanosecond at which it does."""
    watcher, before, there = (new_machine() for _ in range(3))
    for pause, action in history:
        until = watcher.clock.now + pause
        saved, start = watcher.pc.state(), watcher.clock.now
        rise = None
        while (deadline := watcher.pc.next_deadline()) is not None and deadline <= until:
            assert deadline > watcher.clock.now
            watcher.go(deadline)
            if watcher.pc.interrupt:
                rise = deadline
        for probe, moment in ((before, until if rise is None else rise - 1), (there, rise or until)):
            probe.clock.now = start
            probe.pc.restore(saved)
            probe.go(moment)
        if rise is None:
            assert before.pc.interrupt == watcher.pc.interrupt
        else:
            assert not before.pc.interrupt
            assert there.pc.interrupt
        watcher.go(until)
        action(watcher.pc)


@searching
@given(HISTORIES, st.lists(st.tuples(PAUSES, ACTIONS), max_size=12))
def test_a_restored_machine_goes_on_as_the_original(before, after):
    original, copied = new_machine(), new_machine()
    for pause, action in before:
        original.go(original.clock.now + pause)
        action(original.pc)
    saved = original.pc.state()
    stored = {name: msgspec.msgpack.decode(encode(state), type=DeviceState) for name, state in saved.items()}
    copied.clock.now = original.clock.now
    copied.pc.restore(stored)
    assert copied.pc.state() == saved
    assert copied.pc.interrupt == original.pc.interrupt
    for pause, action in after:
        assert copied.pc.next_deadline() == original.pc.next_deadline()
        for machine in (original, copied):
            machine.go(machine.clock.now + pause)
        assert action(copied.pc) == action(original.pc)
    assert copied.pc.state() == original.pc.state()


def test_taking_the_state_twice_gives_equal_bytes():
    machine = new_machine()
    machine.clock.now = 123_456_789  # and nobody called advance
    first = {name: encode(state) for name, state in machine.pc.state().items()}
    assert first == {name: encode(state) for name, state in machine.pc.state().items()}


def test_a_saved_state_does_not_change_with_the_machine():
    machine = new_machine()
    saved = machine.pc.state()
    before = copy.deepcopy(saved)
    machine.pc.receive(b"more")
    machine.pc.key(0x1E, down=True)
    for port in range(0x400):
        if port != 0xF4:
            machine.pc.write_port(port, 1, 0x5A)
    assert saved == before


def paths(fields: object, prefix: tuple = ()) -> list[tuple]:
    """All places in a tree of dicts and lists."""
    items = (
        fields.items() if isinstance(fields, dict) else enumerate(fields) if isinstance(fields, list) else ()
    )
    return [place for key, value in items for place in [(*prefix, key), *paths(value, (*prefix, key))]]


@pytest.mark.parametrize("bad", [-1, 1 << 70, "text", 1.5, [], None], ids=repr)
def test_no_field_takes_a_bad_value_and_a_refused_state_changes_nothing(bad):
    machine = new_machine()
    good = machine.pc.state()
    nullable = {("ide0", "due"), ("ide1", "due"), ("pit", "change"), ("uart", "timeout"), ("rtc", "periodic")}
    for name, state in good.items():
        for place in paths(state.fields):
            if bad is None and (name, *place) in nullable:
                continue
            if bad == -1 and place[-1] in ("origin", "updated"):
                continue
            fields = copy.deepcopy(state.fields)
            inner = fields
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = bad
            with pytest.raises(StateError, match=f"device {name}: .*{place[-1]}"):
                machine.pc.restore({**good, name: DeviceState(state.version, fields)})
            assert machine.pc.state() == good


def test_a_state_of_another_version_or_set_of_devices_is_refused_by_name():
    machine = new_machine()
    good = machine.pc.state()
    with pytest.raises(StateError, match="device pit: state version 2, expected 1"):
        machine.pc.restore({**good, "pit": DeviceState(2, good["pit"].fields)})
    with pytest.raises(StateError, match="device ne2000"):
        machine.pc.restore({**good, "ne2000": good["pit"]})
    with pytest.raises(StateError, match="device rtc: missing"):
        machine.pc.restore({name: state for name, state in good.items() if name != "rtc"})
    with pytest.raises(StateError, match=r"device pic: .*unknown field `extra`"):
        machine.pc.restore({**good, "pic": DeviceState(1, {**good["pic"].fields, "extra": 0})})


def test_fields_that_contradict_each_other_are_refused():
    machine = new_machine()
    good = machine.pc.state()
    for name, place, value in (("rtc", "periodic", 5), ("vga", "retrace", 2)):
        with pytest.raises(StateError, match=f"device {name}: .*{place}"):
            machine.pc.restore({**good, name: DeviceState(1, {**good[name].fields, place: value})})


def test_a_masked_timer_asks_for_no_stop_and_loses_no_edge():
    machine = new_machine()
    pc = machine.pc
    reset_pics(pc)
    out(0x21, 0xFF)(pc)
    out(0x43, 0x34)(pc)
    out(0x40, 100, 0)(pc)
    assert pc.next_deadline() is None
    machine.clock.now = 10_000_000  # nobody advances
    assert pc.read_port(0x20, 1) & 1
    out(0x21, 0xFE)(pc)
    assert pc.interrupt


def test_a_waiting_interrupt_asks_for_no_more_stops():
    machine = new_machine()
    pc = machine.pc
    reset_pics(pc)
    out(0x43, 0x34)(pc)
    out(0x40, 100, 0)(pc)
    machine.go(pc.next_deadline())
    assert pc.interrupt
    assert pc.next_deadline() is None
    assert pc.acknowledge() == 0x20
    assert pc.next_deadline() is None  # in service: the next edge waits for the EOI
    out(0x20, 0x20)(pc)
    assert pc.next_deadline() is not None


@pytest.mark.parametrize(("value", "status"), [(0, 1), (1, 3), (0x10, 0x21), (0xFF, 0x1FF)])
def test_the_debug_exit_gives_the_status_of_qemus_process(value, status):
    machine = new_machine()
    machine.pc.write_port(0xF4, 4, value)
    assert machine.exits == [status]


def test_the_debug_exit_can_be_elsewhere():
    exits: list[int] = []
    machine = new_machine()
    pc = IsaPc(
        machine.clock, memoryview(bytearray(1 << 20)), print, exits.append, print, debug_exit=(0x501, 2)
    )
    pc.write_port(0xF4, 4, 1)
    pc.write_port(0x501, 2, 3)
    assert exits == [7]


@pytest.mark.parametrize(
    "accesses",
    [[(0x64, 0xFE)], [(0x64, 0xF0)], [(0x92, 0x03)], [(0x64, 0xD1), (0x60, 0xDE)]],
    ids=["pulse", "pulse all", "port 92", "output port"],
)
def test_each_way_to_reset_the_machine_is_reported(accesses):
    machine = new_machine()
    for port, value in accesses:
        assert machine.resets == 0
        machine.pc.write_port(port, 1, value)
    assert machine.resets == 1


def test_a_reset_machine_is_like_a_new_one_but_for_time_and_what_was_typed():
    machine = new_machine()
    machine.clock.now = 5_000_000_000
    for port in range(0x400):
        if port not in (0x70, 0x71, *range(0xF4, 0xF8)):
            machine.pc.write_port(port, 1, 0x5A)
    machine.pc.reset()
    fresh = new_machine()
    fresh.clock.now = 5_000_000_000
    fresh.pc.reset()
    assert machine.pc.state() == fresh.pc.state()


@pytest.mark.parametrize("memory", [1 << 20, 16 << 20, 17 << 20, MEMORY, 64 << 20, 128 << 20])
def test_the_cmos_tells_the_size_of_memory(memory):
    pc = Recorder(memory=memory).pc

    def word(index: int) -> int:
        value = 0
        for place in (index + 1, index):
            pc.write_port(0x70, 1, place)
            value = value << 8 | pc.read_port(0x71, 1)
        return value

    assert word(0x15) == 640
    assert word(0x17) == word(0x30) == min((memory >> 10) - 1024, 0xFFFF)
    assert word(0x34) == max(0, (memory >> 16) - 256)


def test_the_screen_shows_the_text_memory_from_the_start_address_on():
    machine = new_machine()
    for place, character in enumerate("Hello"):
        machine.ram[0xB8000 + 160 + 2 * place] = ord(character)
        machine.ram[0xB8000 + 161 + 2 * place] = 0x07
    lines = machine.pc.screen().split("\n")
    assert len(lines) == 25
    assert {len(line) for line in lines} == {80}
    assert lines[0].strip() == ""
    assert lines[1].rstrip() == "Hello"
    out(0x3D4, 0x0D)(machine.pc)
    out(0x3D5, 80)(machine.pc)
    assert machine.pc.screen().split("\n")[0].rstrip() == "Hello"
