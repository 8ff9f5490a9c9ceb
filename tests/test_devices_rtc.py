"""The real-time clock: it counts virtual time, sets flags on the second, and never asks the host."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from port_script import FixedClock

from hypervisor.devices.calendar import from_seconds, to_seconds
from hypervisor.devices.rtc import Rtc

SECOND = 10**9


class Wired:
    def __init__(self, date: int = 946_684_800) -> None:
        self.clock = FixedClock()
        self.level = 0
        self.rtc = Rtc(self.clock, self._line, lambda: None, 32 << 20, date)

    def _line(self, level: int) -> None:
        self.level = level

    def __getitem__(self, index: int) -> int:
        self.rtc.write(0, 1, index)
        return self.rtc.read(1, 1)

    def __setitem__(self, index: int, value: int) -> None:
        self.rtc.write(0, 1, index)
        self.rtc.write(1, 1, value)

    def next_edge(self) -> int | None:
        """Go to the next deadline; the line must rise there, not before."""
        deadline = self.rtc.next_deadline()
        if deadline is not None:
            self.rtc.advance(deadline - 1)
            assert not self.level
            self.clock.now = deadline
            self.rtc.advance(deadline)
            assert self.level
        return deadline


@given(st.integers(-62_135_596_800, 253_402_300_799))
def test_the_calendar_agrees_with_the_standard_library(seconds):
    moment = from_seconds(seconds)
    date = dt.datetime(1970, 1, 1) + dt.timedelta(seconds=seconds)  # noqa: DTZ001
    assert moment[:6] == (date.year, date.month, date.day, date.hour, date.minute, date.second)
    assert moment.weekday == date.isoweekday() % 7 + 1
    assert to_seconds(moment) == seconds


def test_the_date_follows_virtual_time_across_a_leap_day():
    wired = Wired(date=951_868_799)  # 2000-02-29 23:59:59
    assert [wired[index] for index in (0x32, 9, 8, 7, 6, 4, 2, 0)] == [0x20, 0, 2, 0x29, 3, 0x23, 0x59, 0x59]
    wired.clock.now = SECOND
    assert [wired[index] for index in (8, 7, 6, 4, 2, 0)] == [3, 1, 4, 0, 0, 0]


@pytest.mark.parametrize(("format_bits", "shown"), [(2, 0x13), (6, 13), (0, 0x81), (4, 0x81)])
def test_hours_are_shown_in_every_format(format_bits, shown):
    wired = Wired(date=946_684_800 + 13 * 3600)
    wired[0x0B] = format_bits
    assert wired[4] == shown


def test_uip_announces_the_update_and_goes_with_it():
    wired = Wired()
    for now, uip in (
        (0, 0),
        (SECOND - 244_141, 0),
        (SECOND - 244_140, 0x80),
        (SECOND - 1, 0x80),
        (SECOND, 0),
    ):
        wired.clock.now = now
        assert wired[0x0A] & 0x80 == uip


@pytest.mark.parametrize(("rate", "hertz"), [(6, 1024), (3, 8192), (1, 256), (2, 128), (15, 2)])
def test_the_periodic_interrupt_keeps_its_rate_exactly(rate, hertz):
    wired = Wired()
    wired[0x0A] = 0x20 | rate
    wired[0x0B] = 0x42
    for period in range(1, 20):
        assert wired.next_edge() == -(-period * SECOND // hertz)
        assert wired[0x0C] & 0xC0 == 0xC0
    assert wired.rtc.next_deadline() is not None


def test_the_update_interrupt_comes_on_the_second():
    wired = Wired()
    wired.clock.now = 123
    wired[0x0B] = 0x12
    assert wired.next_edge() == SECOND
    assert wired.rtc.next_deadline() is None, "not before register C is read"
    assert wired[0x0C] == 0x90
    assert not wired.level
    assert wired.next_edge() == 2 * SECOND


@pytest.mark.parametrize(
    ("alarm", "when"),
    [
        ((0x05, 0xC0, 0xC0), 5),
        ((0xC0, 0xFF, 0xC0), 1),
        ((0, 1, 0), 60),
        ((0, 0, 1), 3600),
        ((0, 0, 0), 86_400),
    ],
)
def test_the_alarm_strikes_at_its_second_also_when_nobody_looked(alarm, when):
    wired = Wired()
    wired[1], wired[3], wired[5] = alarm
    wired[0x0B] = 0x22
    assert wired.next_edge() == when * SECOND
    late = Wired()
    late[1], late[3], late[5] = alarm
    late.clock.now = when * SECOND - 1
    assert late[0x0C] & 0x20 == 0
    late.clock.now = (when + 20) * SECOND
    assert late[0x0C] & 0x20


def test_an_impossible_alarm_never_strikes():
    wired = Wired()
    wired[1], wired[3], wired[5] = 0x75, 0xC0, 0xC0
    wired[0x0B] = 0x22
    assert wired.rtc.next_deadline() is None


def test_set_halts_the_registers_and_not_the_fraction_of_the_second():
    wired = Wired()
    wired.clock.now = SECOND // 4
    wired[0x0B] = 0x82
    wired[0] = 0x30
    wired.clock.now = 10 * SECOND + SECOND // 4
    assert wired[0] == 0x30
    wired[0x0B] = 0x02
    wired.clock.now = 11 * SECOND - 1
    assert wired[0] == 0x30
    wired.clock.now = 11 * SECOND
    assert wired[0] == 0x31


def test_a_divider_released_from_reset_updates_half_a_second_later():
    wired = Wired()
    wired[0x0A] = 0x66
    wired.clock.now = 7 * SECOND + 77
    wired[0x0A] = 0x26
    wired[0x0B] = 0x12
    wired[0x0C]
    assert wired.next_edge() == 7 * SECOND + 77 + SECOND // 2


def test_a_reset_keeps_the_date_and_the_memory():
    wired = Wired()
    wired[0x0E], wired[0x40] = 0x11, 0x22
    wired[0x0B] = 0x72
    wired.clock.now = 3 * SECOND
    wired.rtc.reset()
    assert (wired[0x0E], wired[0x40], wired[0]) == (0x11, 0x22, 3)
    assert wired[0x0B] == 0x12
    assert not wired.level
