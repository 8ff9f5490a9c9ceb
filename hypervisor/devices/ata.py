"""An ATA hard disk drive: its registers, and how sectors go through them by programmed I/O.

Source: ATA/ATAPI-6 (T13/1410D). Where a guest can see a difference, it is QEMU 7.2's drive
(hw/ide/core.c), which is simpler than the standard (``ata_commands`` has the commands):

* registers can be written while no command is under way, and both drives of a channel take what is
  written to either;
* power management does nothing; IDENTIFY is computed once, and then changed only by SET FEATURES;
* an aborted command leaves the sector registers as they are, and the only error is ABRT;
* there is no bus master here, so a DMA command asks for data for ever, until the drive is reset.

Reading, writing and flushing take ``COMMAND_TIME``: the drive is busy, then it interrupts. Everything else
is done when the command has been written. The host's file is accessed at the beginning of that time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, Protocol

from msgspec import Meta, Struct

from hypervisor.devices.ata_data import MULTIPLE_MAX, SELF_TESTS_MAX
from hypervisor.devices.device import U8, Bit, Registers
from hypervisor.devices.geometry import CYLINDERS_MAX, HEADS, SECTORS, Geometry, guess
from hypervisor.devices.image import SECTOR

BUSY, READY, SEEK_DONE, REQUEST, ERROR = 0x80, 0x40, 0x10, 0x08, 0x01
"""Bits of the status register: BSY, DRDY, DSC, DRQ, ERR."""
ABORTED = 0x04
PASSED = 0x01
"""In the error register after diagnostics."""
DEVICE_ALWAYS, DEVICE_LBA, DEVICE_SECOND, DEVICE_HEAD = 0xA0, 0x40, 0x10, 0x0F
"""Bits of the device register."""
COMMAND_TIME = 1_000
"""Nanoseconds of virtual time: enough instructions for a driver that gives the command first and gets ready
for the interrupt then, as on QEMU, and few enough for one that asks again and again.
"""


class Backend(Protocol):
    """Where a drive keeps its sectors."""

    sectors: int

    def read(self, sector: int, count: int) -> bytes | None: ...

    def write(self, sector: int, data: bytes) -> bool: ...

    def flush(self) -> bool: ...


class DriveFields(Struct, forbid_unknown_fields=True):
    feature: U8
    error: U8
    count: Annotated[int, Meta(ge=0, le=0x1FFFF)]
    """Sectors to be moved; the 0 that means 256 or 65,536 is replaced by that."""
    sector: U8
    cylinder_low: U8
    cylinder_high: U8
    device: U8
    status: U8
    previous: Annotated[bytes, Meta(min_length=5, max_length=5)]
    """What was written before to feature, count, sector and cylinder: the high bytes of 48-bit commands."""
    extended: Bit
    """The command has 48-bit addresses."""
    multiple: Annotated[int, Meta(ge=0, le=MULTIPLE_MAX)]
    """Sectors in a block of READ and WRITE MULTIPLE."""
    block: Annotated[int, Meta(ge=0, le=MULTIPLE_MAX)]
    """Sectors in a block of the command under way."""
    transfer: Literal["none", "reply", "read", "write"]
    """What the data register is for: one answer, sectors to the guest, sectors from the guest."""
    buffer: Annotated[bytes, Meta(max_length=MULTIPLE_MAX * SECTOR)]
    place: Annotated[int, Meta(ge=0, le=MULTIPLE_MAX * SECTOR)]
    """Bytes of the buffer that were moved."""
    identity: Annotated[bytes, Meta(max_length=SECTOR)]
    """What IDENTIFY says; empty until it was asked."""
    write_cache: Bit
    smart: Bit
    smart_autosave: Bit
    self_tests: Annotated[int, Meta(ge=0, le=SELF_TESTS_MAX)]
    self_test_log: Annotated[bytes, Meta(min_length=SECTOR, max_length=SECTOR)]
    cylinders: Annotated[int, Meta(ge=1, le=CYLINDERS_MAX)]
    heads: Annotated[int, Meta(ge=1, le=HEADS)]
    sectors: Annotated[int, Meta(ge=0, le=0x1FFFF)]
    """Of a track. INITIALIZE DEVICE PARAMETERS takes any number, even none."""
    native: tuple[Annotated[int, Meta(ge=1, le=HEADS)], Annotated[int, Meta(ge=1, le=63)]]
    """Heads and sectors before any INITIALIZE DEVICE PARAMETERS."""
    reverts: Bit
    """The next reset goes back to them."""


class Drive(Registers):
    """One drive of a channel, or the place where there is none (``disk`` is None).

    ``interrupt`` raises the channel's interrupt; ``begin`` makes the drive busy with reading, writing or
    flushing, and calls ``finish`` when the time is over.
    """

    Fields = DriveFields

    def __init__(
        self,
        number: int,
        disk: Backend | None,
        interrupt: Callable[[], object],
        begin: Callable[[str, bool], object],
    ) -> None:
        self.number = number
        self.disk = disk
        self.interrupt = interrupt
        self._begin = begin
        shape = Geometry(2, HEADS, SECTORS, 0)
        if disk is not None:
            shape = guess(disk.sectors, disk.read(0, 1) or b"")
        self.geometry = shape
        self.native = (shape.heads, shape.sectors)
        self.reverts = 0
        self.cylinders, self.heads, self.sectors = shape.cylinders, shape.heads, shape.sectors
        self.previous = bytearray(5)
        self.buffer = bytearray()
        self.identity = bytearray()
        self.self_test_log = bytearray(SECTOR)
        self.write_cache = 1
        self.smart = self.smart_autosave = 1
        self.self_tests = 0
        self.reset()

    def reset(self) -> None:
        """As after a reset of the channel; what SET FEATURES and SMART changed stays."""
        self.multiple = MULTIPLE_MAX
        self.feature = self.error = 0
        self.previous[:] = bytes(5)
        self.device = DEVICE_ALWAYS
        self.status = READY | SEEK_DONE
        self.extended = 0
        self.block = 0
        if self.reverts:
            self.heads, self.sectors = self.native
            self.reverts = 0
        self.stop_transfer()
        self.sign()

    @property
    def present(self) -> bool:
        return self.disk is not None

    def sign(self) -> None:
        """The signature by which a drive is told from a packet device (ATA-6, 9.12)."""
        self.device &= ~DEVICE_HEAD
        self.count = self.sector = 1
        self.cylinder_low = self.cylinder_high = 0 if self.disk is not None else 0xFF

    # ------------------------------------------------------------------------------ transfers

    def stop_transfer(self) -> None:
        self.transfer = "none"
        self.buffer.clear()
        self.place = 0
        self.status &= ~REQUEST

    def start_transfer(self, transfer: Literal["reply", "read", "write"], buffer: bytes) -> None:
        self.transfer = transfer
        self.buffer[:] = buffer
        self.place = 0
        self.status |= REQUEST

    def reply(self, data: bytes) -> bool:
        """The command's answer is ready; False, as a command says that it is not over."""
        self.status = READY | SEEK_DONE
        self.start_transfer("reply", data)
        self.interrupt()
        return False

    def movable(self, *, to_guest: bool) -> int:
        """Bytes that the data register gives or takes just now."""
        if not self.status & REQUEST or (self.transfer == "write") == to_guest:
            return 0
        return len(self.buffer) - self.place

    def read_data(self, size: int) -> int:
        """The data register, 2 or 4 bytes wide; 0 if it has nothing to give."""
        if self.movable(to_guest=True) < size:
            return 0
        return int.from_bytes(self.take(size), "little")

    def write_data(self, size: int, value: int) -> None:
        if self.movable(to_guest=False) >= size:
            self.put(value.to_bytes(size, "little"))

    def take(self, size: int) -> bytes:
        """The next bytes for the guest; there must be so many."""
        end = self.place + size
        data = bytes(self.buffer[self.place : end])
        self.place = end
        if end == len(self.buffer):
            self._end_block()
        return data

    def put(self, data: bytes) -> None:
        """The next bytes from the guest; there must be room."""
        end = self.place + len(data)
        self.buffer[self.place : end] = data
        self.place = end
        if end == len(self.buffer):
            self._end_block()

    def _end_block(self) -> None:
        self.status &= ~REQUEST
        if self.transfer == "read":
            self.read_block()
        elif self.transfer == "write":
            self._write_block()
        else:
            self.stop_transfer()

    # ------------------------------------------------------------------------------ sectors

    def address(self) -> int:
        """The first sector that the registers name; it may lie outside of the disk."""
        low = self.cylinder_high << 16 | self.cylinder_low << 8 | self.sector
        if self.device & DEVICE_LBA:
            if self.extended:
                previous = self.previous
                return previous[4] << 40 | previous[3] << 32 | previous[2] << 24 | low
            return (self.device & DEVICE_HEAD) << 24 | low
        track = (low >> 8) * self.heads + (self.device & DEVICE_HEAD)
        return track * self.sectors + self.sector - 1

    def set_address(self, number: int) -> None:
        """Name a sector in the registers, in the form in which they are used."""
        if self.device & DEVICE_LBA:
            self.sector, self.cylinder_low, self.cylinder_high = number.to_bytes(8, "little")[:3]
            if self.extended:
                self.previous[2:5] = (number >> 24).to_bytes(5, "little")[:3]
            else:
                self.device = self.device & ~DEVICE_HEAD | number >> 24 & DEVICE_HEAD
            return
        if not self.sectors:
            return  # there are no such addresses; QEMU dies of it
        track, sector = divmod(number, self.sectors)
        cylinder, head = divmod(track, self.heads)
        self.cylinder_low, self.cylinder_high = cylinder & 0xFF, cylinder >> 8 & 0xFF
        self.device = self.device & ~DEVICE_HEAD | head & DEVICE_HEAD
        self.sector = sector + 1 & 0xFF

    def _in_range(self, first: int, count: int) -> bool:
        return self.disk is not None and first >= 0 and first + count <= self.disk.sectors

    def set_count(self, *, extended: bool) -> None:
        """Take the number of sectors, and the length of addresses, from the registers."""
        self.extended = 1 if extended else 0
        if extended:
            self.count = (self.previous[1] << 8 | self.count) or 0x10000
        else:
            self.count = self.count or 0x100

    def abort(self) -> None:
        self.stop_transfer()
        self.status = READY | ERROR
        self.error = ABORTED

    def fail(self) -> None:
        self.abort()
        self.interrupt()

    def read_block(self) -> None:
        """Fetch the next sectors for the guest."""
        self.status = READY | SEEK_DONE
        self.error = 0
        count = min(self.count, self.block)
        if not count:
            self.stop_transfer()
            return
        first = self.address()
        if self.disk is None or not self._in_range(first, count):
            self.fail()
            return
        data = self.disk.read(first, count)
        self.transfer = "read"
        self.buffer[:] = data or b""
        self.place = 0
        self.status |= BUSY
        self._begin("read", data is None)

    def _write_block(self) -> None:
        """Store the sectors that the guest has written to the data register."""
        self.status = READY | SEEK_DONE
        count = min(self.count, self.block)
        first = self.address()
        if self.disk is None or not self._in_range(first, count):
            self.fail()
            return
        done = self.disk.write(first, bytes(self.buffer))
        if done and not self.write_cache:
            done = self.disk.flush()
        self.status |= BUSY
        self._begin("write", not done)

    def flush(self) -> None:
        """Bring what was written to stable storage."""
        if self.disk is None:
            self.finish("flush", failed=False)
        else:
            self.status |= BUSY
            self._begin("flush", not self.disk.flush())

    def finish(self, operation: str, *, failed: bool) -> None:
        """The time of ``begin`` is over."""
        self.status &= ~BUSY
        if failed:
            self.fail()
            return
        if operation == "flush":
            self.status = READY | SEEK_DONE
            self.interrupt()
            return
        count = min(self.count, self.block)
        self.set_address(self.address() + count)
        self.count -= count
        if operation == "read":
            self.status |= REQUEST
        elif self.count:
            self.start_transfer("write", bytes(min(self.count, self.block) * SECTOR))
        else:
            self.stop_transfer()
        self.interrupt()
