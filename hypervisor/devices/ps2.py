"""What hangs on the keyboard controller's two PS/2 connectors: a keyboard and a mouse.

Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard" and "Auxiliary device"; as in QEMU
7.2 (hw/input/ps2.c), an answer of the keyboard goes before keys that wait, and replaces what was not read
of an earlier answer, while the mouse queues its answers. Both answer at once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from hypervisor.devices.device import U8, Bit, Registers

QUEUE_SIZE = 16
ACK, RESEND, SELF_TEST_PASSED = 0xFA, 0xFE, 0xAA
EXTENDED, RELEASED = 0xE0, 0xF0

# Scancode set 2 for the keys 0x00-0x58 of set 1 (the table that the 8042 applies the other way round).
_SET_2 = bytes.fromhex(
    "00 76 16 1e 26 25 2e 36 3d 3e 46 45 4e 55 66 0d 15 1d 24 2d 2c 35 3c 43 44 4d 54 5b 5a 14 1c 1b"
    "23 2b 34 33 3b 42 4b 4c 52 0e 12 5d 1a 22 21 2a 32 31 3a 41 49 4a 59 7c 11 29 58 05 06 04 0c 03"
    "0b 83 0a 01 09 77 7e 6c 75 7d 7b 6b 73 74 79 69 72 7a 70 71 84 60 61 78 07"
)
# How the translating controller shows the number of the scancode set in force.
_TRANSLATED_SET = {1: 0x43, 2: 0x41, 3: 0x3F}

Queue = Annotated[bytes, Meta(max_length=QUEUE_SIZE + 4)]


class Ps2Device(Registers):
    """The queue of bytes towards the controller."""

    def __init__(self) -> None:
        self.queue = bytearray()
        self.last = 0
        self.command = 0

    def put(self, *data: int) -> None:
        """Queue an event or an answer; it is lost if it does not fit as a whole."""
        if len(self.queue) + len(data) <= QUEUE_SIZE:
            self.queue += bytes(data)

    def take(self) -> int:
        """The next byte; the last one again if there is none."""
        if self.queue:
            self.last = self.queue.pop(0)
        return self.last


class KeyboardFields(Struct, forbid_unknown_fields=True):
    queue: Queue
    answer: Annotated[int, Meta(ge=0, le=4)]
    """How many bytes at the head of the queue answer the last command."""
    last: U8
    command: U8
    """The command whose argument is expected, or 0."""
    scanning: Bit
    translated: Bit
    """The controller translates set 2 to set 1, and the keyboard's codes come already translated."""
    scancode_set: Annotated[int, Meta(ge=1, le=3)]
    leds: U8


class Keyboard(Ps2Device):
    """An MF2 keyboard with 102 keys."""

    Fields = KeyboardFields

    def __init__(self) -> None:
        super().__init__()
        self.answer = 0
        self.translated = 0
        self.power_on()

    def power_on(self) -> None:
        self.scanning = 1
        self.scancode_set = 2
        self.leds = 0
        self.command = 0
        self.answer = 0
        self.last = 0
        self.queue.clear()

    def reply(self, *data: int) -> None:
        """Answer a command, before any keys that wait."""
        del self.queue[: self.answer]
        self.queue[:0] = bytes(data)
        self.answer = len(data)

    def take(self) -> int:
        if self.answer:
            self.answer -= 1
        return super().take()

    def key(self, code: int, *, down: bool) -> None:
        """A key moves. ``code`` is its number in set 1; 0xe0 in the upper byte makes it an extended one."""
        if not self.scanning:
            return
        number = code & 0x7F
        prefix = (EXTENDED,) if code >> 8 == EXTENDED else ()
        if self.translated or self.scancode_set == 1:
            self.put(*prefix, number if down else number | 0x80)
        elif number < len(_SET_2):
            released = () if down else (RELEASED,)
            self.put(*prefix, *released, _SET_2[number])

    def write(self, value: int) -> None:
        """A byte from the host."""
        command, self.command = self.command, 0
        if command == 0xF0:  # select scancode set, or ask for it
            if value == 0:
                code = self.scancode_set
                self.reply(ACK, _TRANSLATED_SET[code] if self.translated else code)
            elif value <= 3:
                self.scancode_set = value
                self.reply(ACK)
            else:
                self.reply(RESEND)
        elif command:
            if command == 0xED:
                self.leds = value
            self.reply(ACK)
        elif value in (0xED, 0xF0, 0xF3, 0xFC):  # LEDs, scancode set, typematic rate, make/break key
            self.command = value
            self.reply(ACK)
        elif value == 0xEE:
            self.reply(value)  # echo
        elif value == 0xF2:
            self.reply(ACK, 0xAB, 0x41 if self.translated else 0x83)
        elif value == 0xF4:
            self.scanning = 1
            self.reply(ACK)
        elif value in (0xF5, 0xF6, 0xFF):
            self.power_on()
            self.scanning = 0 if value == 0xF5 else 1
            self.reply(*((ACK, SELF_TEST_PASSED) if value == 0xFF else (ACK,)))
        elif value in (0x00, 0xFA):
            self.reply(ACK)
        else:
            self.reply(RESEND)


class MouseFields(Struct, forbid_unknown_fields=True):
    queue: Queue
    last: U8
    command: U8
    status: U8
    """0x40 remote, 0x20 reporting, 0x10 scale 2:1."""
    resolution: U8
    rate: U8
    wrap: Bit
    kind: Literal[0, 3, 4]
    """As it identifies itself: a plain mouse, one with a wheel, one with five buttons."""
    knocks: Annotated[int, Meta(ge=0, le=3)]
    """How far the sequence of sample rates has come that changes the kind."""


class Mouse(Ps2Device):
    """A mouse that answers and never moves."""

    Fields = MouseFields

    def __init__(self) -> None:
        super().__init__()
        self.power_on()

    def power_on(self) -> None:
        """Rate and resolution are undefined until a reset command; QEMU has 0."""
        self.rate = 0
        self.resolution = 0
        self.status = 0
        self.wrap = 0
        self.kind = 0
        self.knocks = 0
        self.command = 0
        self.last = 0
        self.queue.clear()

    def _set_defaults(self) -> None:
        self.rate = 100
        self.resolution = 2
        self.status = 0

    def write(self, value: int) -> None:
        """A byte from the host."""
        command, self.command = self.command, 0
        if command:
            if command == 0xF3:
                self.rate = value
                self._knock(value)
            else:
                self.resolution = value
            self.put(ACK)
        elif self.wrap and value not in (0xEC, 0xFF):
            self.put(value)
        else:
            self._execute(value)

    def _knock(self, rate: int) -> None:
        """Rates of 200, 100, 80 make it a mouse with a wheel, 200, 200, 80 one with five buttons."""
        if self.knocks == 0:
            self.knocks = 1 if rate == 200 else 0
        elif self.knocks == 1:
            self.knocks = {100: 2, 200: 3}.get(rate, 0)
        else:
            if rate == 80:
                self.kind = 3 if self.knocks == 2 else 4
            self.knocks = 0

    def _execute(self, value: int) -> None:
        answer: tuple[int, ...] = (ACK,)
        if value == 0xE6:
            self.status &= ~0x10
        elif value == 0xE7:
            self.status |= 0x10
        elif value in (0xE8, 0xF3):  # resolution, sample rate
            self.command = value
        elif value == 0xE9:
            answer = (ACK, self.status, self.resolution, self.rate)
        elif value == 0xEA:
            self.status &= ~0x40
        elif value == 0xEB:  # one report: no button, no movement
            answer = (ACK, 0x08, 0, 0, 0) if self.kind else (ACK, 0x08, 0, 0)
        elif value == 0xEC and self.wrap:
            self.wrap = 0
        elif value == 0xEE:
            self.wrap = 1
        elif value == 0xF0:
            self.status |= 0x40
        elif value == 0xF2:
            answer = (ACK, self.kind)
        elif value == 0xF4:
            self.status |= 0x20
        elif value == 0xF5:
            self.status &= ~0x20
        elif value == 0xF6:
            self._set_defaults()
        elif value == 0xFF:
            # As in QEMU, even a reset is taken in wrap mode, and it stays in it; what was sent is lost.
            self.kind = 0
            self.queue.clear()
            self._set_defaults()
            answer = (ACK, SELF_TEST_PASSED, 0x00)
        else:
            return
        self.put(*answer)
