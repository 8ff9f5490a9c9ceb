"""An IDE channel: two drives on one cable, with the ports and the interrupt of an ISA PC.

Source: ATA/ATAPI-6 (T13/1410D), chapters 7 and 9; behaviour where a guest can see it: QEMU 7.2's
``isa-ide`` (hw/ide/core.c, ioport.c). ``-M isapc`` has two channels. On QEMU the second has an empty
CD-ROM drive unless it is told not to (``-nodefaults``); here it has nothing.

While the selected drive is busy it takes nothing but a software reset, so at most one thing is under way
on a channel: ``operation``, until ``due``.

Offsets: 0 the data register, which alone is 16 and 32 bits wide, 1 to 7 the others, 8 device control
and alternate status.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from hypervisor.devices.ata import (
    BUSY,
    COMMAND_TIME,
    DEVICE_ALWAYS,
    DEVICE_SECOND,
    REQUEST,
    Backend,
    Drive,
    DriveFields,
)
from hypervisor.devices.ata_commands import diagnose, execute
from hypervisor.devices.ata_data import MULTIPLE_MAX
from hypervisor.devices.device import U8, Bit, Clock, Device, Line, Rescheduled, Time
from hypervisor.devices.geometry import Geometry
from hypervisor.devices.image import SECTOR
from hypervisor.errors import StateError
from hypervisor.state.model import DeviceState

DATA, FEATURE, COUNT, SECTOR_NUMBER, CYLINDER_LOW, CYLINDER_HIGH, DEVICE, COMMAND, CONTROL = range(9)
ERROR, STATUS, ALTERNATE_STATUS = FEATURE, COMMAND, CONTROL
"""What other registers are when they are read."""

PREVIOUS, RESET, NO_INTERRUPT = 0x80, 0x04, 0x02
"""Bits of device control: HOB, SRST and nIEN."""


class ChannelFields(Struct, forbid_unknown_fields=True):
    selected: Bit
    control: U8
    operation: Literal["none", "read", "write", "flush", "reset"]
    failed: Bit
    """The host could not do what the operation asks for."""
    due: Time | None
    """When the operation is over."""
    master: DriveFields
    slave: DriveFields


class Ide(Device):
    """The first channel."""

    name = "ide0"
    Fields = ChannelFields

    def __init__(
        self, clock: Clock, line: Line, rescheduled: Rescheduled, disks: Sequence[Backend] = ()
    ) -> None:
        """``disks`` are those of drive 0 and drive 1, as far as they are there."""
        self._clock = clock
        self._set_line = line
        self._rescheduled = rescheduled
        backends = (*disks, None, None)
        self.master = Drive(0, backends[0], self._interrupt, self._begin)
        self.slave = Drive(1, backends[1], self._interrupt, self._begin)
        self._drives = (self.master, self.slave)
        self._empty = not disks
        self._raised = True
        """May the line be up? The 8259 knows; this saves asking it at every look at the status."""
        self.control = 0
        self.reset()

    @property
    def geometries(self) -> list[Geometry | None]:
        """The shapes of the two drives; None where there is none."""
        return [drive.geometry if drive.present else None for drive in self._drives]

    def reset(self) -> None:
        self.selected = 0
        self.control = 0
        self._idle()
        for drive in self._drives:
            drive.reset()
        self._lower()

    def _idle(self) -> None:
        self.operation = "none"
        self.failed = 0
        self.due: int | None = None
        self._rescheduled()

    # ------------------------------------------------------------------------------ what the drives ask for

    def _interrupt(self) -> None:
        if not self.control & NO_INTERRUPT:
            self._raised = True
            self._set_line(1)

    def _lower(self) -> None:
        self._raised = False
        self._set_line(0)

    def _begin(self, operation: str, failed: bool) -> None:
        self.operation = operation
        self.failed = 1 if failed else 0
        self.due = self._clock.now + COMMAND_TIME
        self._rescheduled()

    def next_deadline(self) -> int | None:
        """Without the interrupt, nobody notices before looking."""
        return None if self.control & NO_INTERRUPT else self.due

    def advance(self, now: int) -> None:
        if self.due is None or now < self.due:
            return
        operation, failed = self.operation, self.failed == 1
        self._idle()
        if operation == "reset":
            for drive in self._drives:
                drive.reset()
                diagnose(drive, 0)
            self.control &= ~RESET
        else:
            self._drives[self.selected].finish(operation, failed=failed)

    # ------------------------------------------------------------------------------ registers

    def read(self, offset: int, size: int) -> int:
        if self.due is not None:
            self.advance(self._clock.now)
        drive = self._drives[self.selected]
        if offset == DATA:
            # A byte access takes a whole word: the Solaris boot loader counts on that.
            return drive.read_data(2) & 0xFF if size == 1 else drive.read_data(size)
        if offset == STATUS and self._raised:
            self._lower()
        if self._empty:
            return 0
        if offset in (ERROR, STATUS, ALTERNATE_STATUS):
            if not drive.present and self.selected:
                return 0
            if offset != ERROR:
                return drive.status
        if offset == DEVICE:
            return drive.device
        if self.control & PREVIOUS:
            return drive.previous[offset - FEATURE]
        values = (drive.error, drive.count & 0xFF, drive.sector, drive.cylinder_low, drive.cylinder_high)
        return values[offset - FEATURE]

    def burst(self, offset: int, size: int, *, to_guest: bool) -> int:
        """All of the sectors in the buffer but their last access, which is the drive's cue."""
        self.advance(self._clock.now)
        if offset != DATA or size == 1 or self.due is not None:
            return 0
        left = self._drives[self.selected].movable(to_guest=to_guest)
        return max(0, (left - 1) // size)

    def read_burst(self, offset: int, size: int) -> bytes:
        return self._drives[self.selected].take(size)

    def write_burst(self, offset: int, data: bytes) -> None:
        self._drives[self.selected].put(data)

    def write(self, offset: int, size: int, value: int) -> None:
        self.advance(self._clock.now)
        drive = self._drives[self.selected]
        if offset == DATA:
            if size > 1:
                drive.write_data(size, value)
        elif offset == CONTROL:
            self._write_control(value)
        elif offset == COMMAND:
            self.control &= ~PREVIOUS
            self._lower()
            execute(drive, value)
        elif not drive.status & (BUSY | REQUEST):
            self._write_parameter(offset, value)

    def _write_parameter(self, offset: int, value: int) -> None:
        """Both drives take it. All but the device register remember what they held before."""
        if offset == DEVICE:
            for drive in self._drives:
                drive.device = value | DEVICE_ALWAYS
            self.selected = 1 if value & DEVICE_SECOND else 0
            self.control &= ~PREVIOUS
            return
        self.control &= ~PREVIOUS
        for drive in self._drives:
            previous = drive.previous
            if offset == FEATURE:
                previous[0], drive.feature = drive.feature, value
            elif offset == COUNT:
                previous[1], drive.count = drive.count & 0xFF, value
            elif offset == SECTOR_NUMBER:
                previous[2], drive.sector = drive.sector, value
            elif offset == CYLINDER_LOW:
                previous[3], drive.cylinder_low = drive.cylinder_low, value
            else:
                previous[4], drive.cylinder_high = drive.cylinder_high, value

    def _write_control(self, value: int) -> None:
        if value & RESET and not self.control & RESET:
            for drive in self._drives:
                drive.status |= BUSY
            self._begin("reset", False)
        self.control = value
        self._rescheduled()

    # ------------------------------------------------------------------------------ state

    def fields(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("selected", "control", "operation", "failed", "due")}
        return {**own, "master": self.master.fields(), "slave": self.slave.fields()}

    def check(self, state: DeviceState) -> Any:
        fields = super().check(state)
        if (fields.operation == "none") != (fields.due is None):
            raise StateError(f"device {self.name}: an operation without an end - at `$.due`")
        for name, drive in (("master", self.master), ("slave", self.slave)):
            self._check_drive(name, drive, getattr(fields, name))
        selected = self._drives[fields.selected]
        if fields.operation not in ("none", "reset") and not selected.present:
            raise StateError(
                f"device {self.name}: an operation of a drive that is not there - at `$.operation`"
            )
        return fields

    def _check_drive(self, name: str, drive: Drive, fields: DriveFields) -> None:
        size = len(fields.buffer)
        if size % SECTOR or fields.place > size or size > MULTIPLE_MAX * SECTOR:
            raise StateError(f"device {self.name}: no whole number of sectors - at `$.{name}.buffer`")
        if not drive.present and (size or fields.transfer != "none"):
            raise StateError(
                f"device {self.name}: a transfer of a drive that is not there - at `$.{name}.buffer`"
            )
        if len(fields.identity) not in (0, SECTOR):
            raise StateError(f"device {self.name}: of the wrong length - at `$.{name}.identity`")

    def load(self, fields: Any) -> None:
        for name in ("selected", "control", "operation", "failed", "due"):
            setattr(self, name, getattr(fields, name))
        self._raised = True
        self.master.load(fields.master)
        self.slave.load(fields.slave)
        self._rescheduled()


class SecondIde(Ide):
    """The second channel."""

    name = "ide1"
