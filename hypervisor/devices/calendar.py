"""Dates of the proleptic Gregorian calendar, for any numbers that a guest may write into its clock.

``datetime`` refuses months and days out of range and ends at the year 9999; a clock chip just counts on.
"""

from __future__ import annotations

from typing import NamedTuple

DAY_SECONDS = 86_400
_DAYS_IN_400_YEARS = 146_097
_EPOCH_FROM_MARCH_0000 = 719_468
"""Days from 0000-03-01, where the leap day is the last of a year, to 1970-01-01."""


class Moment(NamedTuple):
    """A second of a day."""

    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int
    weekday: int = 0
    """1 is Sunday; not needed to tell a moment."""


def to_seconds(moment: Moment) -> int:
    """Seconds since 1970; whatever is out of its range counts on into the next larger unit."""
    months = moment.year * 12 + moment.month - 3  # months since March of the year 0
    year, month = months // 12, months % 12
    days = year * 365 + year // 4 - year // 100 + year // 400
    days += (153 * month + 2) // 5 + moment.day - 1 - _EPOCH_FROM_MARCH_0000
    return days * DAY_SECONDS + moment.hour * 3600 + moment.minute * 60 + moment.second


def from_seconds(seconds: int) -> Moment:
    """The moment that lies ``seconds`` after 1970-01-01 00:00:00."""
    days, left = divmod(seconds, DAY_SECONDS)
    cycles, day = divmod(days + _EPOCH_FROM_MARCH_0000, _DAYS_IN_400_YEARS)
    year = (day - day // 1460 + day // 36_524 - day // (_DAYS_IN_400_YEARS - 1)) // 365
    day -= year * 365 + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    months = (cycles * 400 + year) * 12 + month + 2
    return Moment(
        year=months // 12,
        month=months % 12 + 1,
        day=day + 1,
        hour=left // 3600,
        minute=left // 60 % 60,
        second=left % 60,
        weekday=(days + 4) % 7 + 1,
    )
