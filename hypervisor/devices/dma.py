"""The two 8237 DMA controllers with their page registers: registers only, nothing is ever transferred.

Source: Intel 8237A data sheet; the page registers are the PC/AT's. As in QEMU 7.2 (hw/dma/i8257.c).

Offsets: 0x00 the first controller (one byte per register), 0x20 the second (two bytes per register),
0x40 the page registers of ports 0x80-0x8f.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from hypervisor.devices.device import U8, Bit, Device, Registers

U16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
Four16 = Annotated[list[U16], Meta(min_length=4, max_length=4)]
Four8 = Annotated[list[U8], Meta(min_length=4, max_length=4)]

PAGE_CHANNEL = {1: 2, 2: 3, 3: 1, 7: 0}
"""Which channel's page a port in 0x80-0x87 holds; 0x88-0x8f likewise for the second controller."""
UNSUPPORTED = 0xFB
"""Command bits with which a command is ignored (memory to memory, priorities, timing, polarity)."""


class ControllerFields(Struct, forbid_unknown_fields=True):
    status: U8
    command: U8
    mask: U8
    second_byte: Bit
    """The flip-flop: the next access is to the high byte."""
    addresses: Four16
    counts: Four16
    loaded_addresses: Four16
    """The current address registers, which a complete write sets to the base."""
    modes: Four8
    pages: Four8


class Controller(Registers):
    """One 8237."""

    Fields = ControllerFields

    def __init__(self) -> None:
        self.power_on()

    def power_on(self) -> None:
        self.addresses = [0] * 4
        self.counts = [0] * 4
        self.loaded_addresses = [0] * 4
        self.modes = [0] * 4
        self.pages = [0] * 4
        self.clear()

    def clear(self) -> None:
        """Master clear."""
        self.status = 0
        self.command = 0
        self.mask = 0xFF
        self.second_byte = 0

    def read(self, register: int) -> int:
        if register < 8:
            value = self.counts[register >> 1] if register & 1 else self.loaded_addresses[register >> 1]
            value = value >> 8 if self.second_byte else value & 0xFF
            self.second_byte ^= 1
            return value
        if register == 8:
            value = self.status
            self.status &= 0xF0  # reading clears the terminal counts
            return value
        return self.mask if register == 9 else 0

    def write(self, register: int, value: int) -> None:
        if register < 8:
            self._write_channel(register >> 1, self.counts if register & 1 else self.addresses, value)
        elif register == 8:
            if not value & UNSUPPORTED:
                self.command = value
        elif register == 9:  # software request
            channel = value & 3
            request = 0x10 << channel
            self.status = self.status | request if value & 4 else self.status & ~request
            self.status &= ~(1 << channel)
        elif register == 10:
            bit = 1 << (value & 3)
            self.mask = self.mask | bit if value & 4 else self.mask & ~bit
        elif register == 11:
            self.modes[value & 3] = value
        elif register == 12:
            self.second_byte = 0
        elif register == 13:
            self.clear()
        elif register == 14:
            self.mask = 0
        else:
            self.mask = value

    def _write_channel(self, channel: int, registers: list[int], value: int) -> None:
        before = registers[channel]
        if self.second_byte:
            registers[channel] = before & 0x00FF | value << 8
            self.loaded_addresses[channel] = self.addresses[channel]
        else:
            registers[channel] = before & 0xFF00 | value
        self.second_byte ^= 1

    def fields(self) -> dict[str, Any]:
        return {
            name: list(value) if isinstance(value, list) else value
            for name, value in super().fields().items()
        }


class DmaFields(Struct, forbid_unknown_fields=True):
    controllers: Annotated[list[ControllerFields], Meta(min_length=2, max_length=2)]


class Dma(Device):
    """Both controllers."""

    name = "dma"
    Fields = DmaFields

    def __init__(self) -> None:
        self.controllers = [Controller(), Controller()]

    def reset(self) -> None:
        for controller in self.controllers:
            controller.power_on()

    def read(self, offset: int, size: int) -> int:
        if offset >= 0x40:
            return self.controllers[offset >> 3 & 1].pages[PAGE_CHANNEL[offset & 7]]
        if offset >= 0x20:
            return self.controllers[1].read(offset >> 1 & 15)
        return self.controllers[0].read(offset & 15)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= 0x40:
            self.controllers[offset >> 3 & 1].pages[PAGE_CHANNEL[offset & 7]] = value
        elif offset >= 0x20:
            self.controllers[1].write(offset >> 1 & 15, value)
        else:
            self.controllers[0].write(offset & 15, value)

    def fields(self) -> dict[str, Any]:
        return {"controllers": [controller.fields() for controller in self.controllers]}

    def load(self, fields: Any) -> None:
        for controller, saved in zip(self.controllers, fields.controllers, strict=True):
            controller.load(saved)
