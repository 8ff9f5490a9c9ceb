"""A VGA in text mode: its registers, and what is on the screen.

Source: IBM PS/2 Hardware Interface Technical Reference, "Video subsystem"; masks as in QEMU 7.2
(hw/display/vga.c and cirrus_vga.c: ``-M isapc`` has a Cirrus card, whose own registers are left out).
The text itself lies in guest RAM from 0xb8000 on, so that the guest writes it without a trap. Registers
are remembered and change nothing but ``text``.

Offsets: port - 0x3b0.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from hypervisor.devices.device import U8, Bit, Device

FIRST_PORT, PORTS = 0x3B0, 0x30
TEXT_BASE = 0xB8000
TEXT_SIZE = 0x8000
COLUMNS, ROWS = 80, 25

CRTC_START, CRTC_CURSOR, CRTC_PROTECT = 0x0C, 0x0E, 0x11
CRTC_REGISTERS = 0x19
RETRACE = 0x09
"""Input status 1: vertical retrace, display disabled."""
MISC_COLOR = 0x01

_SEQUENCER_MASKS = (0x03, 0x3D, 0x0F, 0x3F, 0x0E)
_GRAPHICS_MASKS = (0xFF, 0xFF, 0x0F, 0x1F, 0x03, 0x7F, 0x0F, 0x0F, 0xFF)
_ATTRIBUTE_MASKS = (0x3F,) * 16 + (0xEF, 0xFF, 0x3F, 0x0F, 0x0F)


class VgaFields(Struct, forbid_unknown_fields=True):
    misc: U8
    feature: U8
    retrace: Literal[0, 9]
    crtc_index: U8
    crtc: Annotated[bytes, Meta(min_length=CRTC_REGISTERS, max_length=CRTC_REGISTERS)]
    sequencer_index: U8
    sequencer: Annotated[bytes, Meta(min_length=5, max_length=5)]
    graphics_index: U8
    graphics: Annotated[bytes, Meta(min_length=9, max_length=9)]
    attribute_index: U8
    attribute_data: Bit
    """The flip-flop of port 0x3c0: the next write is data."""
    attribute: Annotated[bytes, Meta(min_length=21, max_length=21)]
    dac_mask: U8
    dac_state: U8
    dac_read: U8
    dac_write: U8
    dac_part: Annotated[int, Meta(ge=0, le=2)]
    """Red, green or blue is next."""
    dac_latch: Annotated[bytes, Meta(min_length=3, max_length=3)]
    palette: Annotated[bytes, Meta(min_length=768, max_length=768)]


class Vga(Device):
    """Registers; ``text`` reads the screen out of RAM."""

    name = "vga"
    Fields = VgaFields

    def __init__(self, ram: memoryview) -> None:
        self._ram = ram
        self.crtc = bytearray(CRTC_REGISTERS)
        self.sequencer = bytearray(5)
        self.graphics = bytearray(9)
        self.attribute = bytearray(21)
        self.dac_latch = bytearray(3)
        self.palette = bytearray(768)
        self.reset()

    def reset(self) -> None:
        for registers in (
            self.crtc,
            self.sequencer,
            self.graphics,
            self.attribute,
            self.dac_latch,
            self.palette,
        ):
            registers[:] = bytes(len(registers))
        self.misc = self.feature = 0
        self.retrace = 0
        self.crtc_index = self.sequencer_index = self.graphics_index = 0
        self.attribute_index = self.attribute_data = 0
        self.dac_mask = 0xFF
        self.dac_state = self.dac_read = self.dac_write = self.dac_part = 0

    def read(self, offset: int, size: int) -> int:
        port = offset + FIRST_PORT
        if port < 0x3C0 if self.misc & MISC_COLOR else port >= 0x3D0:
            return 0xFF  # the half that the card does not decode: monochrome or colour
        if port in (0x3BA, 0x3DA):
            self.attribute_data = 0
            self.retrace ^= RETRACE  # always near a retrace, so that nobody waits long
            return self.retrace
        if port in (0x3B5, 0x3D5):
            return self.crtc[self.crtc_index] if self.crtc_index < CRTC_REGISTERS else 0xFF
        if port in (0x3B4, 0x3D4):
            return self.crtc_index
        return self._read_common(port)

    def _read_common(self, port: int) -> int:
        if port == 0x3C0:
            return 0 if self.attribute_data else self.attribute_index
        if port == 0x3C1:
            index = self.attribute_index & 0x1F
            return self.attribute[index] if index < len(self.attribute) else 0
        if port == 0x3C4:
            return self.sequencer_index
        if port == 0x3C5:
            return self.sequencer[self.sequencer_index] if self.sequencer_index < 5 else 0xFF
        if port == 0x3C6:
            return self.dac_mask
        if port == 0x3C7:
            return self.dac_state
        if port == 0x3C8:
            return self.dac_write
        if port == 0x3C9:
            return self._read_palette()
        if port == 0x3CA:
            return self.feature
        if port == 0x3CC:
            return self.misc
        if port == 0x3CE:
            return self.graphics_index
        if port == 0x3CF:
            return self.graphics[self.graphics_index] if self.graphics_index < 9 else 0xFF
        return 0

    def _read_palette(self) -> int:
        value = self.palette[self.dac_read * 3 + self.dac_part]
        self.dac_part = (self.dac_part + 1) % 3
        if self.dac_part == 0:
            self.dac_read = (self.dac_read + 1) & 0xFF
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        port = offset + FIRST_PORT
        if port < 0x3C0 if self.misc & MISC_COLOR else port >= 0x3D0:
            return
        if port in (0x3BA, 0x3DA):
            self.feature = value & 0x10
        elif port in (0x3B4, 0x3D4):
            self.crtc_index = value
        elif port in (0x3B5, 0x3D5):
            self._write_crtc(value)
        else:
            self._write_common(port, value)

    def _write_crtc(self, value: int) -> None:
        index = self.crtc_index
        if index >= CRTC_REGISTERS:
            return
        if self.crtc[CRTC_PROTECT] & 0x80 and index <= 7:
            if index == 7:  # of the protected registers, only line compare bit 8 can be written
                self.crtc[7] = self.crtc[7] & ~0x10 | value & 0x10
            return
        self.crtc[index] = value

    def _write_common(self, port: int, value: int) -> None:
        if port == 0x3C0:
            if not self.attribute_data:
                self.attribute_index = value & 0x3F
            elif self.attribute_index & 0x1F < len(self.attribute):
                index = self.attribute_index & 0x1F
                self.attribute[index] = value & _ATTRIBUTE_MASKS[index]
            self.attribute_data ^= 1
        elif port == 0x3C2:
            self.misc = value & ~0x10
        elif port == 0x3C4:
            self.sequencer_index = value
        elif port == 0x3C5:
            if self.sequencer_index < 5:
                self.sequencer[self.sequencer_index] = value & _SEQUENCER_MASKS[self.sequencer_index]
        elif port == 0x3C7:
            self.dac_read, self.dac_part, self.dac_state = value, 0, 3
        elif port == 0x3C8:
            self.dac_write, self.dac_part, self.dac_state = value, 0, 0
        elif port == 0x3C9:
            self._write_palette(value)
        elif port == 0x3CE:
            self.graphics_index = value
        elif port == 0x3CF and self.graphics_index < 9:
            self.graphics[self.graphics_index] = value & _GRAPHICS_MASKS[self.graphics_index]

    def _write_palette(self, value: int) -> None:
        self.dac_latch[self.dac_part] = value
        self.dac_part = (self.dac_part + 1) % 3
        if self.dac_part == 0:
            self.palette[self.dac_write * 3 : self.dac_write * 3 + 3] = self.dac_latch
            self.dac_write = (self.dac_write + 1) & 0xFF

    def _word(self, register: int) -> int:
        return self.crtc[register] << 8 | self.crtc[register + 1]

    def cursor(self) -> tuple[int, int]:
        """Row and column of the cursor, which may lie outside of the screen."""
        return divmod(self._word(CRTC_CURSOR) - self._word(CRTC_START), COLUMNS)

    def text(self) -> str:
        """The screen as 25 lines of 80 characters of code page 437."""
        memory = bytes(self._ram[TEXT_BASE : TEXT_BASE + TEXT_SIZE])
        start = self._word(CRTC_START) * 2
        lines = []
        for row in range(ROWS):
            first = start + row * COLUMNS * 2
            cells = bytes(memory[(first + 2 * column) % TEXT_SIZE] for column in range(COLUMNS))
            lines.append(
                "".join(character if character.isprintable() else " " for character in cells.decode("cp437"))
            )
        return "\n".join(lines)
