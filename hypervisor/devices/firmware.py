"""What a BIOS leaves behind in the devices when it hands the machine to a kernel.

This machine has no firmware: a kernel is loaded and starts. But on ``qemu-system-i386 -M isapc -kernel``
SeaBIOS 1.16 ran before, and a kernel can see that: the timer ticks, the 8259s are initialized (to the
vectors of real mode), the keyboard is on and translated, the disks have been identified, the screen is in mode 3. So after a reset the
same port accesses are made here as a BIOS makes them.
"""

from __future__ import annotations

from hypervisor.devices.bus import Bus

_KEYBOARD: tuple[tuple[int, int], ...] = (
    (0x64, 0xAA),  # self-test of the controller
    (0x64, 0xAB),
    (0x64, 0x60),
    (0x60, 0x30),  # no interrupts, both devices off
    (0x60, 0xFF),  # reset the keyboard
    (0x60, 0xF5),
    (0x60, 0xF0),
    (0x60, 0x02),  # scancode set 2
    (0x64, 0x60),
    (0x60, 0x61),  # translate, keyboard interrupt
    (0x60, 0xF4),
)
_DMA = ((0x0D, 0), (0xDA, 0), (0xD6, 0xC0), (0xD4, 0x00))
_TIMER = ((0x43, 0x34), (0x40, 0x00), (0x40, 0x00))
_PICS = (
    (0x20, 0x11),
    (0xA0, 0x11),
    (0x21, 0x08),
    (0xA1, 0x70),
    (0x21, 0x04),
    (0xA1, 0x02),
    (0x21, 0x01),
    (0xA1, 0x01),
    (0x21, 0xB8),
    (0xA1, 0x8E),
)
_SERIAL_PROBE = ((0x3F9, 0x02), (0x3F9, 0x00))
"""Enabling the transmitter's interrupt raises IRQ 4, and its edge stays in the 8259."""

_INDEXES = ((0x70, 0x00), (0x3C4, 0x00), (0x3CE, 0x05), (0x3D4, 0x0F))
"""The registers that were selected last."""

_CRTC = bytes.fromhex("5f4f50825581bf1f004f0d0e000000a09c8e8f281f96b9a3ff")
_SEQUENCER = bytes.fromhex("0300030002")
_GRAPHICS = bytes.fromhex("0000000000100e0fff")
_ATTRIBUTE = bytes.fromhex("00010203040514073839 3a3b3c3d3e3f0c000f0800".replace(" ", ""))


def _default_palette() -> list[int]:
    """The DAC of mode 3: 64 colours of two bits for each of red, green and blue (rgbRGB)."""
    values = []
    for color in range(64):
        for strong, weak in ((2, 5), (1, 4), (0, 3)):
            values.append(0x2A * (color >> strong & 1) + 0x15 * (color >> weak & 1))
    return values + [0] * (768 - len(values))


def _set_mode_3(bus: Bus) -> None:
    """80x25 text in colour."""
    bus.write(0x3C2, 1, 0x67)
    for index, value in enumerate(_SEQUENCER):
        bus.write(0x3C4, 1, index)
        bus.write(0x3C5, 1, value)
    bus.write(0x3D4, 1, 0x11)
    bus.write(0x3D5, 1, 0)  # lift the write protection
    for index, value in enumerate(_CRTC):
        bus.write(0x3D4, 1, index)
        bus.write(0x3D5, 1, value)
    for index, value in enumerate(_GRAPHICS):
        bus.write(0x3CE, 1, index)
        bus.write(0x3CF, 1, value)
    bus.read(0x3DA, 1)
    for index, value in enumerate(_ATTRIBUTE):
        bus.write(0x3C0, 1, index)
        bus.write(0x3C0, 1, value)
    bus.read(0x3DA, 1)
    bus.write(0x3C0, 1, 0x20)  # screen on
    bus.write(0x3C8, 1, 0)
    for value in _default_palette():
        bus.write(0x3C9, 1, value)


_CHANNELS = ((0x1F0, 0x3F6), (0x170, 0x376))


def _probe_drives(bus: Bus, base: int, control: int) -> None:
    """Look who is there, with interrupts off: is it a packet device, a disk, nobody?"""
    bus.write(control, 1, 0x0A)
    for device in (0xA0, 0xB0):
        bus.write(base + 6, 1, device)
        bus.write(base + 2, 1, 0x55)
        bus.write(base + 3, 1, 0xAA)
        if bus.read(base + 2, 1) != 0x55 or bus.read(base + 3, 1) != 0xAA:
            continue
        for command in (0xA1, 0xEC):
            for register in range(1, 6):
                bus.write(base + register, 1, 0)
            bus.write(base + 7, 1, command)
            if not bus.read(base + 7, 1):
                break
        while bus.read(base + 7, 1) & 0x08:
            bus.read(base, 2)
    bus.write(control, 1, 0x08)


def hand_over(bus: Bus) -> None:
    """Bring the devices from power-on to where a kernel finds them."""
    for port, value in _KEYBOARD:
        bus.write(port, 1, value)
        while bus.read(0x64, 1) & 1:
            bus.read(0x60, 1)
    for port, value in _DMA + _TIMER + _PICS + _SERIAL_PROBE:
        bus.write(port, 1, value)
    _set_mode_3(bus)
    for base, control in _CHANNELS:
        _probe_drives(bus, base, control)
    for port, value in _INDEXES:
        bus.write(port, 1, value)
