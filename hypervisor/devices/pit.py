"""The 8254 programmable interval timer, and port 0x61, through which channel 2 is gated.

Source: Intel 8254 data sheet (231164). Where QEMU 7.2 (hw/timer/i8254.c, hw/audio/pcspk.c) differs
and a guest can see it, this behaves as QEMU:

* OUT of mode 2 is a one-clock *high* pulse at reload (the data sheet has a low one just before);
* a control word takes effect on the running count; the counter does not stop until it is reloaded;
* the gate restarts modes 1, 2, 3 and 5 on its rising edge, but never stops a count;
* modes 6 and 7 are not aliases of 2 and 3: OUT behaves as in mode 0;
* the status byte never shows a null count; an access mode is 0 until first programmed;
* the refresh bit of port 0x61 toggles with every read.

BCD counting is the data sheet's (QEMU stores the bit and counts in binary).

A channel does not count. It remembers when its count was loaded, and everything else is a function of
the clock ticks since then. Ticks are exact: tick n comes at the first whole nanosecond t with
``t * FREQUENCY >= n * SECOND``, so an edge never drifts, however the machine is stopped and moved.

Offsets: 0-2 the channels, 3 the control word, 0x10 port 0x61.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from hypervisor.devices.device import SECOND, U8, Bit, Clock, Device, Line, Registers, Rescheduled, Time

FREQUENCY = 1_193_182
"""Hz: a twelfth of the PC's 14.31818 MHz crystal."""
IRQ = 0

LOW, HIGH, BOTH = 1, 2, 3
"""Access modes of a channel (control word, bits 4 and 5)."""
BOTH_SECOND = 4
"""In access mode BOTH, the low byte has passed and the high byte is next."""

Access = Annotated[int, Meta(ge=0, le=4)]


class ChannelFields(Struct, forbid_unknown_fields=True):
    """One counter."""

    mode: Annotated[int, Meta(ge=0, le=7)]
    bcd: Bit
    access: Annotated[int, Meta(ge=0, le=3)]
    reading: Access
    """Which byte the next unlatched read gives."""
    writing: Access
    """Which byte the next write is."""
    low_byte: U8
    """The low byte that waits for its high byte."""
    latched: Annotated[int, Meta(ge=0, le=0xFFFF)]
    latch: Annotated[int, Meta(ge=0, le=3)]
    """What of the latched count is still to be read; 0: nothing is latched."""
    status: U8
    status_latch: Bit
    gate: Bit
    count: Annotated[int, Meta(ge=1, le=0x10000)]
    """The count that was loaded; the 0 that a guest writes is the greatest count."""
    loaded: Time
    """When it was loaded, or restarted by the gate."""


class Channel(Registers):
    """One counter as a function of time."""

    Fields = ChannelFields

    def __init__(self) -> None:
        self.power_on(gate=1, now=0)

    def power_on(self, gate: int, now: int) -> None:
        """Mode 3 with the greatest count, as QEMU has it; the data sheet leaves all undefined."""
        self.mode = 3
        self.bcd = 0
        self.access = 0
        self.reading = 0
        self.writing = 0
        self.low_byte = 0
        self.latched = 0
        self.latch = 0
        self.status = 0
        self.status_latch = 0
        self.gate = gate
        self.count = 0x10000
        self.loaded = now

    def ticks(self, now: int) -> int:
        """Clock ticks since the count was loaded."""
        return (now - self.loaded) * FREQUENCY // SECOND

    def time_of(self, tick: int) -> int:
        """The first nanosecond at which ``ticks`` gives ``tick``."""
        return self.loaded - (-tick * SECOND // FREQUENCY)

    def output(self, tick: int) -> int:
        """The OUT pin."""
        mode, count = self.mode, self.count
        if mode == 2:
            return 1 if tick and tick % count == 0 else 0
        if mode == 3:
            return 1 if tick % count < (count + 1) >> 1 else 0
        if mode == 1:
            return 1 if tick < count else 0
        if mode in (4, 5):
            return 1 if tick == count else 0
        return 1 if tick >= count else 0

    def next_change(self, tick: int) -> int | None:
        """The tick at which OUT next changes, or None."""
        mode, count = self.mode, self.count
        if mode == 2:
            if count == 1:
                return None if tick else 1
            phase = tick % count
            return tick + 1 if tick and phase == 0 else tick - phase + count
        if mode == 3:
            if count == 1:
                return None
            phase, half = tick % count, (count + 1) >> 1
            return tick - phase + (half if phase < half else count)
        if tick < count:
            return count
        if tick == count and mode in (4, 5):
            return count + 1
        return None

    def next_rise(self, tick: int) -> int | None:
        """The tick at which OUT next goes from 0 to 1, or None."""
        change = self.next_change(tick)
        if change is None or self.output(change):
            return change
        return self.next_change(change)

    def current(self, now: int) -> int:
        """The counting element as a guest reads it."""
        tick, mode, count = self.ticks(now), self.mode, self.count
        if mode in (0, 1, 4, 5):
            value = count - tick
        elif mode == 3:
            value = count - 2 * tick % count
        else:
            value = count - tick % count
        if self.bcd:
            value %= 10000
            return value // 1000 << 12 | value // 100 % 10 << 8 | value // 10 % 10 << 4 | value % 10
        return value & 0xFFFF

    def set_count(self, value: int, now: int) -> None:
        """Load a count as a guest wrote it."""
        if self.bcd:
            digits = (value & 15, value >> 4 & 15, value >> 8 & 15, value >> 12)
            value = (digits[0] + 10 * digits[1] + 100 * digits[2] + 1000 * digits[3]) or 10000
        self.count = value or 0x10000
        self.loaded = now

    def latch_count(self, now: int) -> None:
        """A second latch before the first was read is ignored."""
        if not self.latch:
            self.latched = self.current(now)
            self.latch = self.access

    def latch_status(self, now: int) -> None:
        if not self.status_latch:
            out = self.output(self.ticks(now))
            self.status = out << 7 | self.access << 4 | self.mode << 1 | self.bcd
            self.status_latch = 1

    def read(self, now: int) -> int:
        if self.status_latch:
            self.status_latch = 0
            return self.status
        if self.latch:
            if self.latch == BOTH:
                self.latch = HIGH
                return self.latched & 0xFF
            value = self.latched if self.latch == LOW else self.latched >> 8
            self.latch = 0
            return value & 0xFF
        value = self.current(now)
        if self.reading == BOTH:
            self.reading = BOTH_SECOND
        elif self.reading == BOTH_SECOND:
            self.reading = BOTH
            value >>= 8
        elif self.reading == HIGH:
            value >>= 8
        return value & 0xFF

    def write(self, value: int, now: int) -> bool:
        """Store a byte of the count; True if that loaded the counter."""
        if self.writing == BOTH:
            self.low_byte = value
            self.writing = BOTH_SECOND
            return False
        if self.writing == BOTH_SECOND:
            self.writing = BOTH
            self.set_count(value << 8 | self.low_byte, now)
        elif self.writing == HIGH:
            self.set_count(value << 8, now)
        else:
            self.set_count(value, now)
        return True

    def control(self, value: int) -> None:
        """A control word with a new access mode."""
        self.access = self.reading = self.writing = value >> 4 & 3
        self.mode = value >> 1 & 7
        self.bcd = value & 1


class PitFields(Struct, forbid_unknown_fields=True):
    channels: Annotated[list[ChannelFields], Meta(min_length=3, max_length=3)]
    line: Bit
    """IRQ 0 as it was last driven."""
    change: Time | None
    """When it is driven next."""
    speaker: Bit
    refresh: Bit


class Pit(Device):
    """The three channels; channel 0 is IRQ 0, channel 2 the speaker."""

    name = "pit"
    Fields = PitFields

    def __init__(self, clock: Clock, line: Line, rescheduled: Rescheduled) -> None:
        self._clock = clock
        self._rescheduled = rescheduled
        self._set_line = line
        self.channels = [Channel(), Channel(), Channel()]
        self.line = 0
        self.change: int | None = None
        self.speaker = 0
        self.refresh = 0
        self._rise: int | None = None

    def reset(self) -> None:
        now = self._clock.now
        for index, channel in enumerate(self.channels):
            channel.power_on(gate=0 if index == 2 else 1, now=now)
        self.speaker = 0
        self.refresh = 0
        self._drive(now)

    def next_deadline(self) -> int | None:
        """When IRQ 0 rises; its falling edges nobody notices."""
        return self._rise

    def advance(self, now: int) -> None:
        change = self.change
        if change is None or now < change:
            return
        self._drive(change)
        if self._rise is not None and self._rise <= now:
            # Any number of periods in one step: what they leave behind in the PIC is one edge.
            self._set_line(0)
            self._set_line(1)
        if self.change is not None and self.change <= now:
            self._drive(now)

    def _drive(self, now: int) -> None:
        """Drive IRQ 0 as it is at ``now`` and find its next edges."""
        channel = self.channels[0]
        tick = channel.ticks(now)
        self.line = channel.output(tick)
        self._set_line(self.line)
        change = channel.next_change(tick)
        self.change = None if change is None else channel.time_of(change)
        self._find_rise()

    def _find_rise(self) -> None:
        """Find when IRQ 0 may rise next; never later than it does, also just after a change of mode."""
        if self.change is None or not self.line:
            self._rise = self.change
        else:
            channel = self.channels[0]
            rise = channel.next_rise(channel.ticks(self.change))
            self._rise = None if rise is None else channel.time_of(rise)
        self._rescheduled()

    def read(self, offset: int, size: int) -> int:
        now = self._clock.now
        if offset >= 0x10:
            return self._read_port_61(now)
        self.advance(now)
        offset &= 3
        return 0 if offset == 3 else self.channels[offset].read(now)

    def write(self, offset: int, size: int, value: int) -> None:
        now = self._clock.now
        self.advance(now)
        if offset >= 0x10:
            self._write_port_61(value, now)
            return
        offset &= 3
        if offset == 3:
            self._control(value, now)
        elif self.channels[offset].write(value, now) and offset == 0:
            self._drive(now)

    def _control(self, value: int, now: int) -> None:
        select = value >> 6
        if select == 3:  # read-back command
            for index, channel in enumerate(self.channels):
                if value & 2 << index:
                    if not value & 0x20:
                        channel.latch_count(now)
                    if not value & 0x10:
                        channel.latch_status(now)
        elif value & 0x30:
            self.channels[select].control(value)
            if select == 0:
                # IRQ 0 is driven next when the old mode would have changed it, or by loading a count.
                self._find_rise()
        else:
            self.channels[select].latch_count(now)

    def _read_port_61(self, now: int) -> int:
        channel = self.channels[2]
        self.refresh ^= 1
        return channel.gate | self.speaker << 1 | self.refresh << 4 | channel.output(channel.ticks(now)) << 5

    def _write_port_61(self, value: int, now: int) -> None:
        channel = self.channels[2]
        gate = value & 1
        if gate and not channel.gate and channel.mode in (1, 2, 3, 5):
            channel.loaded = now
        channel.gate = gate
        self.speaker = value >> 1 & 1

    def fields(self) -> dict[str, Any]:
        fields = super().fields()
        fields["channels"] = [channel.fields() for channel in self.channels]
        return fields

    def load(self, fields: Any) -> None:
        for channel, saved in zip(self.channels, fields.channels, strict=True):
            channel.load(saved)
        self.line = fields.line
        self.change = fields.change
        self.speaker = fields.speaker
        self.refresh = fields.refresh
        self._find_rise()
