"""The port bus: which device answers at which I/O port, and what wide accesses do.

The devices of the ISA PC are eight bits wide. What a 16- or 32-bit access to them does is up to the
bus, and here it does what QEMU's does (``memory_region_dispatch_read`` in its softmmu/memory.c):

* an access that is not aligned to its size *within the device's range* reaches nobody; reads give 0;
* an aligned one becomes byte accesses at ascending offsets, all of them to the device that claimed
  the first port, even past the end of its range;
* where nobody has claimed the port, the bus floats and reads are all ones.
"""

from __future__ import annotations

from enum import Enum

from hypervisor.devices.device import Device

ONES = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFFFFFF}
"""What an access of a given size reads where nothing drives the bus."""


class Width(Enum):
    """How a range takes accesses of more than one byte."""

    BYTES = "split into byte accesses"
    NATIVE = "passed to the device whole"
    LOOSE = "16 bits split at any alignment, 32 bits reach nobody (QEMU's portio lists)"


class Bus:
    """The 65,536 ports."""

    def __init__(self) -> None:
        self._claims: dict[int, tuple[Device, int, int, Width]] = {}

    def claim(
        self, device: Device, port: int, count: int, offset: int = 0, width: Width = Width.BYTES
    ) -> None:
        """Give ``count`` ports from ``port`` on to a device, which sees them from ``offset`` on."""
        for i in range(count):
            if port + i in self._claims:
                raise ValueError(f"port {port + i:#x} is claimed twice, by {device.name}")
            self._claims[port + i] = (device, offset + i, i, width)

    def read(self, port: int, size: int) -> int:
        """IN of ``size`` bytes."""
        claim = self._claims.get(port)
        if claim is None:
            return 0 if port & (size - 1) else ONES[size]
        device, offset, place, width = claim
        if size == 1 or width is Width.NATIVE:
            return device.read(offset, size)
        if width is Width.LOOSE:
            return self._read_loose(port, size)
        if place & (size - 1):
            return 0
        value = 0
        for i in range(size):
            value |= device.read(offset + i, 1) << (8 * i)
        return value

    def write(self, port: int, size: int, value: int) -> None:
        """OUT of ``size`` bytes."""
        claim = self._claims.get(port)
        if claim is None:
            return
        device, offset, place, width = claim
        if size == 1 or width is Width.NATIVE:
            device.write(offset, size, value)
        elif width is Width.LOOSE:
            self._write_loose(port, size, value)
        elif not place & (size - 1):
            for i in range(size):
                device.write(offset + i, 1, (value >> (8 * i)) & 0xFF)

    def burst(self, port: int, size: int, *, to_guest: bool) -> int:
        """How many accesses to this port would only move data: see ``Device.burst``."""
        claim = self._claims.get(port)
        if claim is None or claim[3] is not Width.NATIVE:
            return 0
        return claim[0].burst(claim[1], size, to_guest=to_guest)

    def read_burst(self, port: int, size: int) -> bytes:
        """The data of that many accesses, ``size`` bytes in all."""
        device, offset, _, _ = self._claims[port]
        return device.read_burst(offset, size)

    def write_burst(self, port: int, data: bytes) -> None:
        device, offset, _, _ = self._claims[port]
        device.write_burst(offset, data)

    def _read_loose(self, port: int, size: int) -> int:
        if size == 4:
            return ONES[4]
        device, offset, _, _ = self._claims[port]
        high = self._claims.get(port + 1)
        if high is None or high[0] is not device:
            return 0xFF00 | device.read(offset, 1)
        return device.read(offset, 1) | device.read(high[1], 1) << 8

    def _write_loose(self, port: int, size: int, value: int) -> None:
        if size == 4:
            return
        device, offset, _, _ = self._claims[port]
        device.write(offset, 1, value & 0xFF)
        high = self._claims.get(port + 1)
        if high is not None and high[0] is device:
            device.write(high[1], 1, value >> 8)
