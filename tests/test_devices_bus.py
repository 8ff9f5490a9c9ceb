"""The port bus: who answers, and what wide accesses become."""

from __future__ import annotations

import pytest
from msgspec import Struct

from hypervisor.devices.bus import Bus, Width
from hypervisor.devices.device import Device


class Nothing(Struct):
    pass


class Spy(Device):
    """Reads as the offset plus 0x10 and notes what it is asked."""

    name = "spy"
    Fields = Nothing

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.seen.append((offset, size))
        return 0x10 + offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, size, value))


def one_device(width: Width = Width.BYTES) -> tuple[Bus, Spy]:
    bus, spy = Bus(), Spy()
    bus.claim(spy, 0x102, 4, 0, width)
    return bus, spy


@pytest.mark.parametrize(("size", "ones"), [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFFFFFF)])
def test_an_unclaimed_port_floats(size, ones):
    bus, _ = one_device()
    assert bus.read(0x200, size) == ones
    bus.write(0x200, size, 0)


def test_wide_accesses_are_split_at_the_devices_own_alignment():
    bus, spy = one_device()
    assert bus.read(0x102, 4) == 0x13121110
    bus.write(0x104, 2, 0xBBAA)
    assert spy.seen[4:] == [(2, 1, 0xAA), (3, 1, 0xBB)]


def test_misaligned_accesses_reach_nobody():
    bus, spy = one_device()
    assert bus.read(0x103, 2) == bus.read(0x104, 4) == bus.read(0x201, 2) == 0
    bus.write(0x103, 2, 0xFFFF)
    assert spy.seen == []


def test_native_ranges_get_the_access_whole():
    bus, spy = one_device(Width.NATIVE)
    bus.write(0x103, 4, 0x12345678)
    assert spy.seen == [(1, 4, 0x12345678)]


def test_loose_ranges_split_words_anywhere_and_ignore_double_words():
    bus, spy = one_device(Width.LOOSE)
    assert bus.read(0x103, 2) == 0x1211
    assert bus.read(0x105, 2) == 0xFF13
    assert bus.read(0x102, 4) == 0xFFFFFFFF
    bus.write(0x102, 4, 0)
    bus.write(0x105, 2, 0xBBAA)
    assert spy.seen[3:] == [(3, 1, 0xAA)]


def test_a_port_has_one_owner():
    bus, spy = one_device()
    with pytest.raises(ValueError, match="0x105 is claimed twice"):
        bus.claim(spy, 0x105, 1)
