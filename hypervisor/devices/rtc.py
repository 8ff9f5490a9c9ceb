"""The MC146818 real-time clock with its CMOS memory.

Source: Motorola MC146818A data sheet; which byte of the CMOS says what: QEMU 7.2, hw/i386/pc.c. The
registers behave as QEMU's (hw/rtc/mc146818rtc.c): the periodic flag is raised only while its interrupt
is enabled, writing a time register while the clock runs sets the clock at once, and index 0x37 is
another name of the century byte.

The time of day is virtual time plus ``origin``, so that it is a function of the guest's own history:
the host's clock is never asked. It begins at a fixed date unless the machine is told another.

Offsets: 0 the index, 1 the data port.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from hypervisor.devices.calendar import Moment, from_seconds, to_seconds
from hypervisor.devices.device import SECOND, Clock, Device, Line, Rescheduled, Time
from hypervisor.errors import StateError
from hypervisor.state.model import DeviceState

IRQ = 8
CRYSTAL = 32_768
"""Hz."""
UPDATE_TIME = 8 * SECOND // CRYSTAL
"""UIP is set for the last 244 µs of every second."""
Y2K = 946_684_800
"""2000-01-01 00:00:00 in seconds since 1970: the date on which machines are switched on."""

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = 0, 1, 2, 3, 4, 5
WEEKDAY, DAY, MONTH, YEAR = 6, 7, 8, 9
REG_A, REG_B, REG_C, REG_D = 10, 11, 12, 13
SHUTDOWN_STATUS = 0x0F
CENTURY, CENTURY_PS2 = 0x32, 0x37

A_UIP, A_DIVIDER, A_RATE = 0x80, 0x70, 0x0F
DIVIDER_RESET, DIVIDER_32KHZ = 0x60, 0x20
B_SET, B_PERIODIC, B_ALARM, B_UPDATE, B_SQUARE, B_BINARY, B_24H = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02
C_IRQ, C_PERIODIC, C_ALARM, C_UPDATE = 0x80, 0x40, 0x20, 0x10
D_VALID = 0x80

_TIME_REGISTERS = frozenset((SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY))
_ALARM_REGISTERS = frozenset((SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM))


class RtcFields(Struct, forbid_unknown_fields=True):
    cmos: Annotated[bytes, Meta(min_length=128, max_length=128)]
    index: Annotated[int, Meta(ge=0, le=0x7F)]
    origin: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
    """Nanoseconds since 1970 on this clock, less virtual time."""
    phase: Annotated[int, Meta(ge=0, lt=SECOND)]
    """Nanoseconds of the second at which the clock starts when it is set."""
    updated: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
    """The last second (since 1970) whose update cycle is done."""
    periodic: Time | None
    """Next periodic interrupt, as a cycle of the crystal since virtual time 0."""


class Rtc(Device):
    name = "rtc"
    Fields = RtcFields

    def __init__(
        self,
        clock: Clock,
        line: Line,
        rescheduled: Rescheduled,
        memory: int,
        date: int = Y2K,
        disks: Mapping[int, int] | None = None,
    ) -> None:
        """``memory`` is the size of RAM in bytes, ``date`` the time at virtual time 0, in seconds since 1970.

        ``disks`` are the bytes that tell the firmware about the disks, by their index.
        """
        self._clock = clock
        self._set_line = line
        self._rescheduled = rescheduled
        self._memory = memory
        self._date = date
        self._disks = disks or {}
        self.cmos = bytearray(128)
        self._power_on()

    def _power_on(self) -> None:
        cmos = self.cmos
        cmos[:] = bytes(128)
        cmos[REG_A] = DIVIDER_32KHZ | 6
        cmos[REG_B] = B_24H
        cmos[REG_D] = D_VALID
        self._describe_machine()
        self.index = 0
        self.origin = self._date * SECOND
        self.phase = 0
        self.updated = self._seconds(self._clock.now)
        self.periodic: int | None = None
        self._show_time(self._clock.now)
        self._schedule()

    def _describe_machine(self) -> None:
        """What the firmware finds in the CMOS of ``-M isapc``."""
        cmos, memory = self.cmos, self._memory
        cmos[0x10] = 0x50  # drive A: 2.88 MB
        cmos[0x14] = 0x07  # equipment: a diskette drive, a coprocessor, a PS/2 mouse
        extended = min((memory - (1 << 20)) >> 10, 0xFFFF)  # KiB above 1 MiB
        above_16m = min(max(memory - (16 << 20), 0) >> 16, 0xFFFF)  # 64-KiB blocks above 16 MiB
        for place, value in ((0x15, 640), (0x17, extended), (0x30, extended), (0x34, above_16m)):
            cmos[place : place + 2] = value.to_bytes(2, "little")
        cmos[0x38], cmos[0x3D] = 0x30, 0x12  # boot order: disk, diskette, CD-ROM
        for index, value in self._disks.items():
            cmos[index] = value

    def reset(self) -> None:
        """A reset does not touch the battery's side: date, alarm and memory stay."""
        self.advance(self._clock.now)
        cmos = self.cmos
        cmos[SHUTDOWN_STATUS] = 0
        cmos[REG_B] &= ~(B_PERIODIC | B_ALARM | B_SQUARE) & 0xFF
        cmos[REG_C] = 0
        self.periodic = None
        self._set_line(0)
        self._schedule()

    def check(self, state: DeviceState) -> Any:
        fields = super().check(state)
        enabled = fields.cmos[REG_B] & B_PERIODIC and fields.cmos[REG_A] & A_RATE
        if fields.periodic is not None and not enabled:
            raise StateError("device rtc: a periodic interrupt is due that is not enabled - at `$.periodic`")
        return fields

    def load(self, fields: Any) -> None:
        super().load(fields)
        self._schedule()

    def _schedule(self) -> None:
        """Find when ``advance`` next has something to do, seen or unseen."""
        self._due = (self.updated + 1) * SECOND - self.origin
        if self.periodic is not None:
            self._due = min(self._due, self._periodic_time(self.periodic))
        self._rescheduled()

    @staticmethod
    def _periodic_time(cycle: int) -> int:
        """The first nanosecond of a cycle of the crystal."""
        return -(-cycle * SECOND // CRYSTAL)

    def _seconds(self, now: int) -> int:
        return (now + self.origin) // SECOND

    def _running(self) -> bool:
        """Whether the time registers advance."""
        return not self.cmos[REG_B] & B_SET and self.cmos[REG_A] & A_DIVIDER <= DIVIDER_32KHZ

    def next_deadline(self) -> int | None:
        """When IRQ 8 rises. It cannot while it is high, which lasts until register C is read."""
        enabled, flags = self.cmos[REG_B], self.cmos[REG_C]
        if flags & C_IRQ:
            return None
        deadline: int | None = None
        if self.periodic is not None:
            deadline = self._periodic_time(self.periodic)
        second = None
        if self._updating():
            if enabled & B_UPDATE:
                second = self.updated + 1
            elif enabled & B_ALARM and not flags & C_ALARM:
                second = self._next_alarm()
        if second is not None:
            time = second * SECOND - self.origin
            deadline = time if deadline is None else min(deadline, time)
        return deadline

    def _updating(self) -> bool:
        """Whether there are update cycles: not while the divider is held in reset."""
        return self.cmos[REG_A] & DIVIDER_RESET != DIVIDER_RESET

    def advance(self, now: int) -> None:
        if now < self._due:
            return
        flags = 0
        if self.periodic is not None:
            cycle = now * CRYSTAL // SECOND
            if cycle >= self.periodic:
                period = self._period()
                self.periodic += ((cycle - self.periodic) // period + 1) * period
                flags = C_PERIODIC
        second = self._seconds(now)
        if second > self.updated:
            if self._updating():
                flags |= C_UPDATE
                alarm = self._next_alarm()
                if alarm is not None and alarm <= second:
                    flags |= C_ALARM
            self.updated = second
        if flags:
            self._raise(flags)
        self._schedule()

    def _raise(self, flags: int) -> None:
        cmos = self.cmos
        new = flags & ~cmos[REG_C]
        cmos[REG_C] |= flags
        if new & cmos[REG_B]:
            cmos[REG_C] |= C_IRQ
            self._set_line(1)

    def _period(self) -> int:
        """Crystal cycles between periodic interrupts; 0 if off (data sheet, table 5)."""
        rate = self.cmos[REG_A] & A_RATE
        if not rate or not self.cmos[REG_B] & B_PERIODIC:
            return 0
        return 1 << (rate + 6 if rate <= 2 else rate - 1)

    def _restart_periodic(self, before: int) -> None:
        """The rate or its enable changed; ``before`` is the period until now.

        A new rate counts on from the last interrupt, but never more than one new period.
        """
        period = self._period()
        if not period:
            self.periodic = None
            return
        cycle = self._clock.now * CRYSTAL // SECOND
        elapsed = 0
        if before and self.periodic is not None:
            elapsed = min(cycle - (self.periodic - before), period)
        self.periodic = max(cycle + period - elapsed, cycle + 1)

    def read(self, offset: int, size: int) -> int:
        if not offset & 1:
            return 0xFF
        now = self._clock.now
        self.advance(now)
        if self.index == CENTURY_PS2:
            self.index = CENTURY
        index, cmos = self.index, self.cmos
        if index in _TIME_REGISTERS:
            if self._running():
                self._show_time(now)
        elif index == REG_A:
            left = SECOND - (now + self.origin) % SECOND
            return cmos[REG_A] | (A_UIP if self._running() and left <= UPDATE_TIME else 0)
        elif index == REG_C:
            flags = cmos[REG_C]
            cmos[REG_C] = 0
            self._set_line(0)
            self._rescheduled()
            return flags
        return cmos[index]

    def write(self, offset: int, size: int, value: int) -> None:
        if not offset & 1:
            self.index = value & 0x7F
            return
        self.advance(self._clock.now)
        if self.index == CENTURY_PS2:
            self.index = CENTURY
        index = self.index
        if index in _TIME_REGISTERS:
            self.cmos[index] = value
            if self._running():
                self._set_clock()
        elif index == REG_A:
            self._write_a(value & ~A_UIP)
        elif index == REG_B:
            self._write_b(value)
        elif index not in (REG_C, REG_D):
            self.cmos[index] = value
        self._schedule()

    def _write_a(self, value: int) -> None:
        cmos, before = self.cmos, self.cmos[REG_A]
        period = self._period()
        if self._running():
            self._show_time(self._clock.now)
        cmos[REG_A] = value
        released = before & DIVIDER_RESET == DIVIDER_RESET and value & A_DIVIDER <= DIVIDER_32KHZ
        if released and not cmos[REG_B] & B_SET:
            self.phase = SECOND // 2  # the first update cycle comes half a second later
            self._set_clock()
        if (before ^ value) & A_RATE:
            self._restart_periodic(period)

    def _write_b(self, value: int) -> None:
        cmos, before, now = self.cmos, self.cmos[REG_B], self._clock.now
        period = self._period()
        if value & B_SET:
            if self._running():
                self._show_time(now)
            value &= ~B_UPDATE
        cmos[REG_B] = value
        if before & B_SET and self._running():
            # The seconds were never halted, only the registers: their fraction goes on. The registers
            # are in the format that was in force while they were written.
            self.phase = (now + self.origin) % SECOND
            cmos[REG_B] = before
            self._set_clock()
            cmos[REG_B] = value
        if value & cmos[REG_C] & (C_PERIODIC | C_ALARM | C_UPDATE):
            cmos[REG_C] |= C_IRQ
            self._set_line(1)
        else:
            cmos[REG_C] &= ~C_IRQ
            self._set_line(0)
        if (before ^ value) & B_PERIODIC:
            self._restart_periodic(period)

    def _encode(self, value: int) -> int:
        return value if self.cmos[REG_B] & B_BINARY else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self.cmos[REG_B] & B_BINARY else (value >> 4) * 10 + (value & 0x0F)

    def _decode_hour(self, value: int) -> int:
        """An hours register or its alarm; in 12-hour mode bit 7 says afternoon."""
        if self.cmos[REG_B] & B_24H:
            return self._decode(value)
        return self._decode(value & 0x7F) % 12 + (12 if value & 0x80 else 0)

    def _show_time(self, now: int) -> None:
        """Bring the time registers up to date."""
        cmos, encode = self.cmos, self._encode
        moment = from_seconds(self._seconds(now))
        cmos[SECONDS] = encode(moment.second)
        cmos[MINUTES] = encode(moment.minute)
        if cmos[REG_B] & B_24H:
            cmos[HOURS] = encode(moment.hour)
        else:
            cmos[HOURS] = encode(moment.hour % 12 or 12) | (0x80 if moment.hour >= 12 else 0)
        cmos[WEEKDAY] = encode(moment.weekday)
        cmos[DAY] = encode(moment.day)
        cmos[MONTH] = encode(moment.month)
        cmos[YEAR] = encode(moment.year % 100)
        cmos[CENTURY] = encode(moment.year // 100 % 100)

    def _set_clock(self) -> None:
        """Set the clock to what the time registers say."""
        cmos, decode, now = self.cmos, self._decode, self._clock.now
        seconds = to_seconds(
            Moment(
                year=decode(cmos[CENTURY]) * 100 + decode(cmos[YEAR]),
                month=decode(cmos[MONTH]),
                day=decode(cmos[DAY]),
                hour=self._decode_hour(cmos[HOURS]),
                minute=decode(cmos[MINUTES]),
                second=decode(cmos[SECONDS]),
            )
        )
        self.origin = seconds * SECOND + self.phase - now
        self.updated = seconds

    def _next_alarm(self) -> int | None:
        """The first second after ``updated`` at which the alarm strikes, or None.

        SET does not hold the updates up, only the registers; as in QEMU, an alarm for the second after the
        one that they show strikes at every update then. (One for later would strike that much later than
        the registers were last touched; that is left out.)
        """
        if self._running():
            return self._alarm_from(self.updated + 1)
        if not self.cmos[REG_B] & B_SET:
            return None
        cmos, decode = self.cmos, self._decode
        shown = self._decode_hour(cmos[HOURS]) * 3600 + decode(cmos[MINUTES]) * 60 + decode(cmos[SECONDS])
        return self.updated + 1 if self._alarm_from(shown + 1) == shown + 1 else None

    def _alarm_from(self, start: int) -> int | None:
        """The first second from ``start`` on that the alarm registers name, or None."""
        cmos = self.cmos
        hour = None if cmos[HOURS_ALARM] >= 0xC0 else self._decode_hour(cmos[HOURS_ALARM])
        minute = None if cmos[MINUTES_ALARM] >= 0xC0 else self._decode(cmos[MINUTES_ALARM])
        second = None if cmos[SECONDS_ALARM] >= 0xC0 else self._decode(cmos[SECONDS_ALARM])
        if (hour or 0) > 23 or (minute or 0) > 59 or (second or 0) > 59:
            return None
        midnight = start - start % 86_400
        for at_hour in range(start % 86_400 // 3600, 49):
            if hour is not None and at_hour % 24 != hour:
                continue
            for at_minute in range(60) if minute is None else (minute,):
                base = midnight + at_hour * 3600 + at_minute * 60
                if base + 59 < start:
                    continue
                if second is not None:
                    if base + second >= start:
                        return base + second
                else:
                    return max(base, start)
        return None
