"""The 8254: counting, latching, and edges that are exact to the nanosecond."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from port_script import FixedClock

from hypervisor.devices.pit import FREQUENCY, Pit

TICK = Fraction(10**9, FREQUENCY)


class Wired:
    def __init__(self, start: int = 0) -> None:
        self.clock = FixedClock(start)
        self.edges: list[int] = []
        self.level = 0
        self.pit = Pit(self.clock, self._line, lambda: None)
        self.pit.reset()
        self.edges.clear()

    def _line(self, level: int) -> None:
        if level and not self.level:
            self.edges.append(self.clock.now)
        self.level = level

    def program(self, mode: int, count: int, channel: int = 0, bcd: int = 0) -> None:
        self.pit.write(3, 1, channel << 6 | 0x30 | mode << 1 | bcd)
        self.pit.write(channel, 1, count & 0xFF)
        self.pit.write(channel, 1, count >> 8)

    def follow_deadlines(self, until: int) -> None:
        while (deadline := self.pit.next_deadline()) is not None and deadline <= until:
            self.clock.now = deadline
            self.pit.advance(deadline)
        self.clock.now = until
        self.pit.advance(until)

    def count(self, channel: int = 0) -> int:
        self.pit.write(3, 1, channel << 6)
        return self.pit.read(channel, 1) | self.pit.read(channel, 1) << 8

    def at_tick(self, tick: int, since: int = 0) -> None:
        """The first nanosecond at or after a tick."""
        self.clock.now = since - int(-tick * TICK // 1)


@given(st.integers(2, 0x10000), st.sampled_from([2, 3]), st.integers(0, 10**15))
def test_periodic_edges_are_at_exact_multiples_however_long_it_runs(count, mode, start):
    wired = Wired(start)
    wired.program(mode, count & 0xFFFF)
    for period in range(1, 6):
        deadline = wired.pit.next_deadline()
        assert deadline == start - int(-(count * period) * TICK // 1)
        wired.clock.now = deadline
        wired.pit.advance(deadline)
        assert wired.edges == [deadline]
        wired.edges.clear()


def test_an_edge_does_not_drift_in_a_day():
    wired = Wired()
    wired.program(2, 1193)
    day = 86_400 * 10**9
    wired.clock.now = day
    wired.pit.advance(day)
    periods = int(day / (1193 * TICK))
    assert wired.pit.next_deadline() == -int(-(periods + 1) * 1193 * TICK // 1)


@pytest.mark.parametrize("mode", [0, 4])
def test_one_shots_interrupt_once(mode):
    wired = Wired()
    wired.edges.clear()
    wired.level = 0
    wired.program(mode, 100)
    wired.follow_deadlines(10**9)
    assert len(wired.edges) == 1
    assert wired.pit.next_deadline() is None


def test_a_new_count_starts_a_new_period_at_once():
    wired = Wired()
    wired.program(2, 1000)
    wired.at_tick(500)
    middle = wired.clock.now
    wired.pit.write(0, 1, 100)
    assert wired.pit.next_deadline() > middle + 400 * TICK, "half a count changes nothing"
    wired.pit.write(0, 1, 0)
    assert wired.pit.next_deadline() == middle - int(-100 * TICK // 1)


def test_a_count_of_zero_is_the_greatest():
    wired = Wired()
    wired.program(2, 0)
    assert wired.pit.next_deadline() == -int(-65_536 * TICK // 1)


def test_a_latched_count_stands_still_until_it_is_read():
    wired = Wired()
    wired.program(2, 1000)
    wired.at_tick(10)
    wired.pit.write(3, 1, 0x00)
    wired.at_tick(20)
    wired.pit.write(3, 1, 0x00)  # ignored: the first was not read
    assert wired.pit.read(0, 1) | wired.pit.read(0, 1) << 8 == 990
    assert wired.count() == 980


def test_read_back_latches_status_and_count_of_several_channels():
    wired = Wired()
    wired.program(0, 0x1234, channel=1)
    wired.program(3, 0x0100, channel=2)
    wired.at_tick(1)
    wired.pit.write(3, 1, 0xC0 | 0x0C)
    assert wired.pit.read(1, 1) == 0x30
    assert wired.pit.read(1, 1) | wired.pit.read(1, 1) << 8 == 0x1233
    assert wired.pit.read(2, 1) == 0xB6
    assert wired.pit.read(2, 1) | wired.pit.read(2, 1) << 8 == 0xFE


def test_access_modes_select_the_byte():
    wired = Wired()
    wired.pit.write(3, 1, 0x10 | 0 << 1)  # low byte only, mode 0
    wired.pit.write(0, 1, 0x80)
    wired.at_tick(1)
    assert wired.pit.read(0, 1) == 0x7F
    assert wired.pit.read(0, 1) == 0x7F
    wired.pit.write(3, 1, 0x20 | 0 << 1)  # high byte only
    wired.pit.write(0, 1, 0x12)
    assert wired.pit.read(0, 1) == 0x12


def test_bcd_counts_in_decimal():
    wired = Wired()
    wired.program(0, 0x1000, bcd=1)
    wired.at_tick(1)
    assert wired.count() == 0x0999
    wired.program(0, 0x0000, bcd=1)
    start = wired.clock.now
    wired.at_tick(1, since=start)
    assert wired.count() == 0x9999


def test_the_output_of_channel_2_and_its_gate_show_in_port_0x61():
    wired = Wired()
    wired.pit.write(0x10, 1, 0x01)
    wired.program(0, 50, channel=2)
    assert wired.pit.read(0x10, 1) & 0x21 == 0x01
    wired.at_tick(49)
    assert not wired.pit.read(0x10, 1) & 0x20
    wired.at_tick(50)
    assert wired.pit.read(0x10, 1) & 0x20


def test_the_refresh_bit_toggles_with_every_read():
    pit = Wired().pit
    assert len({pit.read(0x10, 1) & 0x10 for _ in range(2)}) == 2


@pytest.mark.parametrize(
    ("mode", "restarts"), [(0, False), (1, True), (2, True), (3, True), (4, False), (5, True)]
)
def test_a_rising_gate_restarts_modes_1_2_3_and_5(mode, restarts):
    wired = Wired()
    wired.program(mode, 1000, channel=2)
    wired.at_tick(100)
    wired.pit.write(0x10, 1, 0x01)
    step = 2 if mode == 3 else 1
    start = wired.clock.now
    wired.at_tick(10, since=start)
    assert wired.count(2) == 1000 - step * (10 if restarts else 110)
