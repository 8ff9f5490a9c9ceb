"""The keyboard controller: keys become scancodes, commands are answered, the mouse is polite."""

from __future__ import annotations

import pytest

from hypervisor.devices.i8042 import I8042

DATA, COMMAND = 0x00, 0x10


class Wired:
    def __init__(self, mode: int = 0x47) -> None:
        self.lines = {1: 0, 12: 0}
        self.resets = 0
        self.chip = I8042(self._keyboard, self._mouse, self._reset)
        self.chip.reset()
        self.command(0x60, mode)

    def _keyboard(self, level: int) -> None:
        self.lines[1] = level

    def _mouse(self, level: int) -> None:
        self.lines[12] = level

    def _reset(self) -> None:
        self.resets += 1

    def command(self, value: int, *data: int) -> None:
        self.chip.write(COMMAND, 1, value)
        for byte in data:
            self.chip.write(DATA, 1, byte)

    def drain(self) -> list[int]:
        data = []
        while self.chip.read(COMMAND, 1) & 1:
            data.append(self.chip.read(DATA, 1))
        return data


@pytest.mark.parametrize(
    ("mode", "scancode_set", "expected"),
    [
        (0x45, 2, [0x1E, 0x9E, 0xE0, 0x48, 0xE0, 0xC8]),
        (0x05, 2, [0x1C, 0xF0, 0x1C, 0xE0, 0x75, 0xE0, 0xF0, 0x75]),
        (0x05, 1, [0x1E, 0x9E, 0xE0, 0x48, 0xE0, 0xC8]),
    ],
    ids=["translated", "set 2", "set 1"],
)
def test_keys_come_in_the_scancode_set_in_force(mode, scancode_set, expected):
    wired = Wired(mode)
    for byte in (0xF0, scancode_set):
        wired.chip.write(DATA, 1, byte)
        assert wired.drain() == [0xFA]
    for code in (0x1E, 0xE048):  # A, cursor up
        wired.chip.key(code, down=True)
        wired.chip.key(code, down=False)
    assert wired.drain() == expected


def test_every_byte_raises_irq_1_anew():
    wired = Wired()
    wired.chip.key(0x1E, down=True)
    wired.chip.key(0x1E, down=False)
    assert wired.lines[1]
    assert wired.chip.read(DATA, 1) == 0x1E
    assert wired.lines[1], "the next byte is there"
    assert wired.chip.read(DATA, 1) == 0x9E
    assert not wired.lines[1]


def test_too_many_keys_lose_whole_keys():
    wired = Wired(0x05)
    for _ in range(30):
        wired.chip.key(0xE048, down=False)  # three bytes each, and sixteen fit
    assert wired.drain() == [0xE0, 0xF0, 0x75] * 5


def test_a_keyboard_that_is_off_keeps_its_keys():
    wired = Wired()
    wired.command(0xAD)
    wired.chip.key(0x1E, down=True)
    assert wired.drain() == []
    wired.command(0xAE)
    assert wired.drain() == [0x1E]


def test_the_self_tests_pass():
    wired = Wired()
    for command, answer in ((0xAA, 0x55), (0xAB, 0x00), (0xA9, 0x00)):
        wired.command(command)
        assert wired.drain() == [answer]
    assert wired.chip.read(COMMAND, 1) & 0x04


def test_the_mouse_answers_on_irq_12_and_with_its_status_bit():
    wired = Wired()
    wired.command(0xD4, 0xFF)
    assert wired.lines[12]
    assert wired.chip.read(COMMAND, 1) & 0x21 == 0x21
    assert wired.drain() == [0xFA, 0xAA, 0x00]
    assert not wired.lines[12]


def test_a20_follows_every_switch():
    wired = Wired()
    for on, switch in (
        (0, lambda: wired.chip.write(0x20, 1, 0x00)),
        (1, lambda: wired.chip.write(0x20, 1, 0x02)),
        (0, lambda: wired.command(0xDD)),
        (1, lambda: wired.command(0xDF)),
        (0, lambda: wired.command(0xD1, 0xDD)),
        (1, lambda: wired.command(0xD1, 0xDF)),
    ):
        switch()
        assert wired.chip.a20 == on
    assert wired.resets == 0
