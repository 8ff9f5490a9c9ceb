"""The 8042 keyboard controller: keyboard, mouse, the A20 gate, and the way to reset the machine.

Source: IBM PC/AT Technical Reference, "Keyboard controller", and PS/2 additions; as in QEMU 7.2
(hw/input/pckbd.c, hw/isa/port92.c), the status bits 1 (input buffer full) and 3 (command) never change.

A20 is remembered and shown; memory behaves as if it were always open, as every 32-bit kernel wants it.

Offsets: 0x00 the data port 0x60, 0x10 the status and command port 0x64, 0x20 port 0x92.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from hypervisor.devices.device import U8, Bit, Device, Line
from hypervisor.devices.ps2 import Keyboard, KeyboardFields, Mouse, MouseFields

KEYBOARD_IRQ = 1
MOUSE_IRQ = 12

STATUS_FULL, STATUS_SELF_TEST, STATUS_COMMAND, STATUS_UNLOCKED, STATUS_MOUSE = 0x01, 0x04, 0x08, 0x10, 0x20
MODE_KEYBOARD_IRQ, MODE_MOUSE_IRQ = 0x01, 0x02
MODE_KEYBOARD_OFF, MODE_MOUSE_OFF, MODE_TRANSLATE = 0x10, 0x20, 0x40
OUT_RUN, OUT_A20, OUT_FULL, OUT_MOUSE, OUT_ONES = 0x01, 0x02, 0x10, 0x20, 0xCC

FROM_KEYBOARD, FROM_MOUSE, FROM_CONTROLLER, FROM_CONTROLLER_AS_MOUSE = 1, 2, 3, 4
"""Where the byte in the output buffer came from."""


class I8042Fields(Struct, forbid_unknown_fields=True):
    status: U8
    mode: U8
    """The command byte."""
    output_port: U8
    command: U8
    """The command whose argument is expected at the data port, or 0."""
    data: U8
    """What the data port gave last."""
    source: U8
    """Whose byte is in the output buffer, while it is full."""
    own: U8
    """A byte from the controller itself."""
    own_source: U8
    """As what it is to be seen; 0: there is none."""
    port_92: U8
    a20: Bit
    keyboard: KeyboardFields
    mouse: MouseFields


class I8042(Device):
    """``on_reset`` is called when the guest pulls the CPU's reset line."""

    name = "i8042"
    version = 2
    Fields = I8042Fields

    def __init__(self, keyboard_line: Line, mouse_line: Line, on_reset: Callable[[], object]) -> None:
        self._set_keyboard_line = keyboard_line
        self._set_mouse_line = mouse_line
        self._on_reset = on_reset
        self.keyboard = Keyboard()
        self.mouse = Mouse()
        self._power_on()

    def _power_on(self) -> None:
        self.keyboard.translated = 0
        self.keyboard.power_on()
        self.mouse.power_on()
        self.status = STATUS_COMMAND | STATUS_UNLOCKED
        self.mode = MODE_KEYBOARD_IRQ | MODE_MOUSE_IRQ
        self.output_port = OUT_RUN | OUT_A20 | OUT_ONES
        self.command = 0
        self.data = 0
        self.source = 0
        self.own = 0
        self.own_source = 0
        self.port_92 = OUT_A20
        self.a20 = 1

    def reset(self) -> None:
        self._power_on()
        self._drive_lines()

    def key(self, code: int, *, down: bool) -> None:
        """A key moves: its number in scancode set 1, with 0xe000 added for the extended keys."""
        self.keyboard.key(code, down=down)
        self._fill()

    def _drive_lines(self) -> None:
        full, mode = self.status & STATUS_FULL, self.mode
        mouse = self.status & STATUS_MOUSE
        keyboard_irq = full and not mouse and mode & MODE_KEYBOARD_IRQ and not mode & MODE_KEYBOARD_OFF
        self._set_keyboard_line(1 if keyboard_irq else 0)
        self._set_mouse_line(1 if full and mouse and mode & MODE_MOUSE_IRQ else 0)

    def _fill(self, last: int = 0) -> None:
        """Put the next byte into the output buffer, if it is empty.

        Our own goes first, then the keyboard's; but a device that was just read lets the other go first.
        """
        if self.status & STATUS_FULL:
            return
        keyboard = self.keyboard.queue and not self.mode & MODE_KEYBOARD_OFF
        mouse = self.mouse.queue and not self.mode & MODE_MOUSE_OFF
        if self.own_source:
            source = self.own_source
        elif keyboard and not (mouse and last == FROM_KEYBOARD):
            source = FROM_KEYBOARD
        elif mouse:
            source = FROM_MOUSE
        else:
            return
        self.source = source
        self.status |= STATUS_FULL
        self.output_port |= OUT_FULL
        if source in (FROM_MOUSE, FROM_CONTROLLER_AS_MOUSE):
            self.status |= STATUS_MOUSE
            self.output_port |= OUT_MOUSE
        self._drive_lines()

    def _answer(self, value: int, source: int = FROM_CONTROLLER) -> None:
        """A byte from the controller itself; there is room for one."""
        self.own = value
        self.own_source = source
        self._fill()

    def read(self, offset: int, size: int) -> int:
        if offset >= 0x20:
            return self.port_92
        if offset >= 0x10:
            return self.status
        if self.status & STATUS_FULL:
            self.status &= ~(STATUS_FULL | STATUS_MOUSE)
            self.output_port &= ~(OUT_FULL | OUT_MOUSE)
            self._drive_lines()
            if self.source == FROM_KEYBOARD:
                self.data = self.keyboard.take()
            elif self.source == FROM_MOUSE:
                self.data = self.mouse.take()
            else:
                self.data = self.own
                self.own_source = 0
            self._fill(self.source)
        return self.data

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= 0x20:
            self._write_port_92(value)
        elif offset >= 0x10:
            self._execute(value)
        else:
            self._write_data(value)

    def _write_port_92(self, value: int) -> None:
        rising = value & ~self.port_92
        self.port_92 = value
        self.a20 = value >> 1 & 1
        if rising & 1:
            self._on_reset()

    def _execute(self, value: int) -> None:
        """A byte at the command port."""
        if value & 0xF0 == 0xF0:  # pulse the output port's bits that are 0 here; bit 0 is the reset line
            if not value & 1:
                self._on_reset()
        elif value == 0x20:
            self._answer(self.mode)
        elif value in (0x60, 0xD1, 0xD2, 0xD3, 0xD4):
            self.command = value
        elif value == 0xA7:
            self.mode |= MODE_MOUSE_OFF
        elif value == 0xA8:
            self.mode &= ~MODE_MOUSE_OFF
            self._fill()
        elif value in (0xA9, 0xAB):  # interface tests
            self._answer(0x00)
        elif value == 0xAA:
            self.status |= STATUS_SELF_TEST
            self._answer(0x55)
        elif value == 0xAD:
            self.mode |= MODE_KEYBOARD_OFF
        elif value == 0xAE:
            self.mode &= ~MODE_KEYBOARD_OFF
            self._fill()
        elif value == 0xC0:
            self._answer(0x80)  # input port: not locked
        elif value == 0xD0:
            self._answer(self.output_port)
        elif value == 0xDD:
            self._set_a20(0)
        elif value == 0xDF:
            self._set_a20(1)

    def _set_a20(self, on: int) -> None:
        self.output_port = self.output_port & ~OUT_A20 | (OUT_A20 if on else 0)
        self.a20 = on

    def _write_data(self, value: int) -> None:
        command, self.command = self.command, 0
        if command == 0:
            self.keyboard.write(value)
            self.mode &= ~MODE_KEYBOARD_OFF  # talking to a device turns its interface on
            self._fill()
        elif command == 0x60:
            self.mode = value
            self.keyboard.translated = 1 if value & MODE_TRANSLATE else 0
            self._drive_lines()
            self._fill()
        elif command == 0xD1:
            self.output_port = value
            self.a20 = value >> 1 & 1
            if not value & OUT_RUN:
                self._on_reset()
        elif command == 0xD2:
            self._answer(value)
        elif command == 0xD3:
            self._answer(value, FROM_CONTROLLER_AS_MOUSE)
        else:
            self.mouse.write(value)
            self.mode &= ~MODE_MOUSE_OFF
            self._fill()

    def fields(self) -> dict[str, Any]:
        fields = super().fields()
        fields["keyboard"] = self.keyboard.fields()
        fields["mouse"] = self.mouse.fields()
        return fields

    def load(self, fields: Any) -> None:
        keyboard, mouse = self.keyboard, self.mouse
        super().load(fields)
        self.keyboard, self.mouse = keyboard, mouse
        keyboard.load(fields.keyboard)
        mouse.load(fields.mouse)
