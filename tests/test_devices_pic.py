"""The 8259 pair by itself: what the data sheet promises, one behaviour at a time."""

from __future__ import annotations

import pytest

from hypervisor.devices.pic import Pic


class Wired:
    """A pair, initialized to vectors 0x20 and 0x28, everything unmasked."""

    def __init__(self, icw4: int = 0x01) -> None:
        self.intr = False
        self.caught_up = 0
        self.pic = Pic(self._set_intr, self._catch_up, lambda: None)
        self.pic.reset()
        for offset, vector, icw3 in ((0x00, 0x20, 0x04), (0x10, 0x28, 0x02)):
            for place, value in ((0, 0x11), (1, vector), (1, icw3), (1, icw4)):
                self.pic.write(offset + place, 1, value)

    def _set_intr(self, level: bool) -> None:
        self.intr = level

    def _catch_up(self) -> None:
        self.caught_up += 1

    def edge(self, *irqs: int) -> None:
        for irq in irqs:
            self.pic.set_line(irq, 1)
            self.pic.set_line(irq, 0)

    def command(self, value: int, *, slave: bool = False) -> None:
        self.pic.write(0x10 if slave else 0x00, 1, value)

    def mask(self, value: int, *, slave: bool = False) -> None:
        self.pic.write(0x11 if slave else 0x01, 1, value)

    def take(self) -> int | None:
        return self.pic.acknowledge() if self.intr else None

    def register(self, ocw3: int, *, slave: bool = False) -> int:
        self.command(ocw3, slave=slave)
        return self.pic.read(0x10 if slave else 0x00, 1)

    @property
    def irr(self) -> int:
        return self.register(0x0A)

    @property
    def isr(self) -> int:
        return self.register(0x0B)


def test_the_lowest_line_wins_and_blocks_its_equals_and_lessers_until_eoi():
    wired = Wired()
    wired.edge(3, 1)
    assert wired.take() == 0x21
    assert wired.take() is None
    wired.edge(0)
    assert wired.take() == 0x20
    wired.command(0x20)
    assert wired.take() is None
    wired.command(0x20)
    assert wired.take() == 0x23


def test_a_line_that_stays_high_is_one_edge():
    wired = Wired()
    wired.pic.set_line(4, 1)
    wired.pic.set_line(4, 1)
    assert wired.take() == 0x24
    wired.command(0x20)
    wired.pic.set_line(4, 1)
    assert wired.take() is None
    wired.pic.set_line(4, 0)
    wired.pic.set_line(4, 1)
    assert wired.take() == 0x24


def test_a_masked_edge_waits_in_irr():
    wired = Wired()
    wired.mask(0xFF)
    wired.edge(0)
    assert not wired.intr
    assert wired.irr == 0x01
    wired.mask(0xFE)
    assert wired.take() == 0x20


def test_a_level_line_asks_again_until_the_device_lets_go():
    wired = Wired()
    wired.pic.write(0x20, 1, 0xFF)
    assert wired.pic.read(0x20, 1) == 0xF8, "lines 0-2 cannot be level-triggered"
    wired.pic.set_line(5, 1)
    assert wired.take() == 0x25
    wired.command(0x20)
    assert wired.take() == 0x25
    wired.pic.set_line(5, 0)
    wired.command(0x20)
    assert wired.take() is None


def test_the_slave_comes_through_line_2_and_needs_two_eois():
    wired = Wired()
    wired.edge(12, 8)
    assert wired.take() == 0x28
    assert wired.isr == 0x04
    assert wired.register(0x0B, slave=True) == 0x01
    wired.command(0x20, slave=True)
    wired.command(0x20)
    assert wired.take() == 0x2C


def test_an_interrupt_that_vanished_is_a_spurious_7_or_15_without_in_service_bit():
    wired = Wired()
    wired.pic.write(0x20, 1, 0xF8)
    wired.pic.set_line(5, 1)
    wired.pic.set_line(5, 0)
    assert wired.pic.acknowledge() == 0x27
    assert wired.isr == 0
    wired.edge(9)
    wired.mask(0xFF, slave=True)
    assert wired.pic.acknowledge() == 0x2F
    assert wired.register(0x0B, slave=True) == 0
    assert wired.isr == 0x04, "the master did see a request"


def test_specific_eoi_ends_one_interrupt_and_only_that():
    wired = Wired()
    wired.edge(6)
    wired.take()
    wired.edge(3)
    wired.take()
    assert wired.isr == 0x48
    wired.command(0x66)
    assert wired.isr == 0x08
    wired.command(0x20)
    assert wired.isr == 0


def test_rotation_makes_the_served_line_the_last():
    wired = Wired()
    wired.edge(0, 1)
    assert wired.take() == 0x20
    wired.command(0xA0)  # rotate on non-specific EOI
    wired.edge(0)
    assert wired.take() == 0x21
    wired.command(0xC4)  # set priority: line 4 is the last, 5 the first
    wired.command(0x61)
    wired.edge(7)
    assert wired.take() == 0x27


def test_special_mask_mode_lets_lesser_lines_through_while_one_is_in_service():
    wired = Wired()
    wired.edge(1)
    wired.take()
    wired.mask(0x02)
    wired.edge(4)
    assert not wired.intr
    wired.command(0x68)
    assert wired.take() == 0x24
    wired.command(0x48)
    wired.edge(6)
    assert not wired.intr


def test_automatic_eoi_leaves_nothing_in_service_and_can_rotate():
    wired = Wired(icw4=0x03)
    wired.edge(0)
    assert wired.take() == 0x20
    assert wired.isr == 0
    wired.command(0x80)  # rotate in automatic EOI mode
    wired.edge(0)
    wired.take()
    wired.edge(0, 1)
    assert wired.take() == 0x21


def test_special_fully_nested_mode_lets_the_slaves_better_line_interrupt_its_worse():
    for icw4, expected in ((0x01, None), (0x11, 0x28)):
        wired = Wired(icw4)
        wired.edge(12)
        assert wired.take() == 0x2C
        wired.edge(8)
        assert wired.take() == expected


def test_a_poll_acknowledges_and_names_the_line():
    wired = Wired()
    wired.edge(5)
    assert wired.register(0x0C) == 0x85
    assert wired.isr == 0x20
    assert not wired.intr
    assert wired.register(0x0C) == 0


def test_icw1_forgets_requests_and_masks():
    wired = Wired()
    wired.mask(0xA5)
    wired.edge(0)
    wired.command(0x13)  # single, with ICW4
    wired.pic.write(1, 1, 0x40)
    wired.pic.write(1, 1, 0x01)
    assert wired.pic.read(1, 1) == 0
    assert wired.irr == 0
    wired.edge(3)
    assert wired.take() == 0x43


@pytest.mark.parametrize(
    "access", [lambda pic: pic.read(0, 1), lambda pic: pic.write(1, 1, 0), Pic.acknowledge]
)
def test_timers_are_caught_up_before_anyone_looks(access):
    wired = Wired()
    before = wired.caught_up
    access(wired.pic)
    assert wired.caught_up == before + 1


@pytest.mark.parametrize("busy", [None, 0, 3, 12])
@pytest.mark.parametrize("mask", [0x00, 0x08, 0xFB])
@pytest.mark.parametrize("last", [7, 0, 3])
def test_would_interrupt_foretells_whether_an_edge_raises_intr(busy, mask, last):
    for irq in (0, 1, 3, 4, 8, 12):
        wired = Wired()
        wired.command(0xC0 | last)
        if busy is not None:
            wired.edge(busy)
            wired.take()
        wired.mask(mask)
        foretold = wired.pic.would_interrupt(irq)
        wired.edge(irq)
        assert wired.intr == foretold, irq
