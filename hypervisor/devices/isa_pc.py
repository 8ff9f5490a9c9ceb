"""The ISA PC assembled: the only part of this package that the monitor talks to.

It behaves as ``qemu-system-i386 -M isapc`` 7.2 does wherever a guest can see it.

**Deadlines.** Stopping the CPU is what a device event costs. An edge that cannot raise INTR just now
(masked, already waiting, or of lower priority than what is in service) is not worth a stop: it is
caught up before anyone can look, that is before the 8259 is read, written or acknowledged, before the
device itself is accessed, and before the state is taken. ``next_deadline`` leaves such edges out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hypervisor.devices import pit, rtc, uart
from hypervisor.devices.ata import Backend
from hypervisor.devices.bus import Bus, Width
from hypervisor.devices.debug_exit import DebugExit
from hypervisor.devices.device import Clock, Device
from hypervisor.devices.dma import Dma
from hypervisor.devices.firmware import hand_over
from hypervisor.devices.geometry import cmos_bytes
from hypervisor.devices.i8042 import I8042, KEYBOARD_IRQ, MOUSE_IRQ
from hypervisor.devices.ide import Ide, SecondIde
from hypervisor.devices.pic import Pic
from hypervisor.devices.pit import Pit
from hypervisor.devices.rtc import Y2K, Rtc
from hypervisor.devices.uart import Uart
from hypervisor.devices.vga import FIRST_PORT, PORTS, Vga
from hypervisor.errors import StateError
from hypervisor.state.model import DeviceState

IDE_IRQ, SECOND_IDE_IRQ = 14, 15
DEBUG_EXIT_PORT = 0xF4
DEBUG_EXIT_SIZE = 4


class IsaPc:
    """Devices, their wires and their ports."""

    def __init__(
        self,
        clock: Clock,
        ram: memoryview,
        on_output: Callable[[bytes], object],
        on_exit: Callable[[int], object],
        on_reset: Callable[[], object],
        *,
        disks: Sequence[Backend] = (),
        date: int = Y2K,
        debug_exit: tuple[int, int] = (DEBUG_EXIT_PORT, DEBUG_EXIT_SIZE),
    ) -> None:
        """Build the machine as it is after reset.

        ``ram`` is all of guest RAM (the CMOS tells its size, the screen is in it).
        ``on_output`` gets what the guest sends to COM1, ``on_exit`` the exit status that QEMU's process
        would end with, ``on_reset`` is called when the guest resets the machine. ``disks`` are the drives
        of the first IDE channel. ``date`` is what the
        RTC shows at virtual time 0, in seconds since 1970. ``debug_exit`` is the first port and the
        number of ports of isa-debug-exit.
        """
        self.interrupt = False
        """The 8259's INTR line."""
        self._clock = clock
        self.bus = Bus()
        self.pic = Pic(self._set_interrupt, self._catch_up, self._reschedule)
        line = self.pic.set_line
        self.pit = Pit(clock, partial(line, pit.IRQ), self._reschedule)
        self.uart = Uart(clock, partial(line, uart.IRQ), self._reschedule, on_output)
        self.ide = Ide(clock, partial(line, IDE_IRQ), self._reschedule, disks)
        self.second_ide = SecondIde(clock, partial(line, SECOND_IDE_IRQ), self._reschedule)
        self.rtc = Rtc(
            clock, partial(line, rtc.IRQ), self._reschedule, len(ram), date, cmos_bytes(self.ide.geometries)
        )
        self.i8042 = I8042(partial(line, KEYBOARD_IRQ), partial(line, MOUSE_IRQ), on_reset)
        self.dma = Dma()
        self.vga = Vga(ram)
        self.debug_exit = DebugExit(on_exit)
        self.devices: dict[str, Device] = {
            device.name: device
            for device in (
                self.pic,
                self.pit,
                self.uart,
                self.rtc,
                self.i8042,
                self.dma,
                self.vga,
                self.ide,
                self.second_ide,
                self.debug_exit,
            )
        }
        self._timed: tuple[tuple[Device, int], ...] = (
            (self.pit, pit.IRQ),
            (self.uart, uart.IRQ),
            (self.rtc, rtc.IRQ),
            (self.ide, IDE_IRQ),
            (self.second_ide, SECOND_IDE_IRQ),
        )
        """Devices with events of their own, and their interrupt."""
        self._deadline: int | None = None
        self._stale = True
        self._claim_ports(*debug_exit)
        self.reset()

    def _claim_ports(self, exit_port: int, exit_size: int) -> None:
        claim = self.bus.claim
        claim(self.pic, 0x20, 2, 0x00)
        claim(self.pic, 0xA0, 2, 0x10)
        claim(self.pic, 0x4D0, 1, 0x20)
        claim(self.pic, 0x4D1, 1, 0x30)
        claim(self.pit, 0x40, 4)
        claim(self.pit, 0x61, 1, 0x10)
        claim(self.i8042, 0x60, 1, 0x00)
        claim(self.i8042, 0x64, 1, 0x10)
        claim(self.i8042, 0x92, 1, 0x20)
        claim(self.rtc, 0x70, 2)
        claim(self.dma, 0x00, 8)
        claim(self.dma, 0x08, 8, 0x08)
        claim(self.dma, 0xC0, 16, 0x20)
        claim(self.dma, 0xD0, 16, 0x30)
        for first, count in ((0x81, 3), (0x87, 1), (0x89, 3), (0x8F, 1)):
            claim(self.dma, first, count, 0x40 + (first & 0x0F), Width.LOOSE)
        claim(self.vga, FIRST_PORT, PORTS)
        claim(self.uart, uart.FIRST_PORT, 8)
        for channel, base, control in ((self.ide, 0x1F0, 0x3F6), (self.second_ide, 0x170, 0x376)):
            claim(channel, base, 1, 0, Width.NATIVE)
            claim(channel, base + 1, 7, 1, Width.LOOSE)
            claim(channel, control, 1, 8, Width.LOOSE)
        claim(self.debug_exit, exit_port, exit_size, 0, Width.NATIVE)

    def _set_interrupt(self, level: bool) -> None:
        self.interrupt = level

    def reset(self) -> None:
        """Reset all devices and leave them as the firmware hands them to a kernel."""
        for device in self.devices.values():
            device.reset()
        hand_over(self.bus)

    def read_port(self, port: int, size: int) -> int:
        """IN: the value of ``size`` (1, 2 or 4) bytes at ``port``."""
        return self.bus.read(port, size)

    def write_port(self, port: int, size: int, value: int) -> None:
        """OUT of ``size`` (1, 2 or 4) bytes to ``port``."""
        self.bus.write(port, size, value)

    def burst(self, port: int, size: int, *, to_guest: bool) -> int:
        """How many INs or OUTs to this port would only move data, so that they can be done together."""
        return self.bus.burst(port, size, to_guest=to_guest)

    def read_burst(self, port: int, size: int) -> bytes:
        """As many INs as make ``size`` bytes."""
        return self.bus.read_burst(port, size)

    def write_burst(self, port: int, data: bytes) -> None:
        """As many OUTs as make up ``data``."""
        self.bus.write_burst(port, data)

    def acknowledge(self) -> int:
        """The CPU takes the interrupt: its vector."""
        return self.pic.acknowledge()

    def receive(self, data: bytes) -> None:
        """Console input arrives at COM1."""
        self.uart.receive(data)

    def key(self, code: int, *, down: bool) -> None:
        """A key of the keyboard moves: its number in scancode set 1, plus 0xe000 for extended keys."""
        self.i8042.key(code, down=down)

    def screen(self) -> str:
        """The text screen: 25 lines of 80 characters."""
        return self.vga.text()

    def next_deadline(self) -> int | None:
        """Virtual time at which ``advance`` must be called next, or None if nothing is to come."""
        if self._stale:
            self._find_deadline()
        return self._deadline

    def advance(self, now: int) -> None:
        """Do everything that is due at or before ``now``; may be called late or without need."""
        for device, _ in self._timed:
            device.advance(now)

    def _catch_up(self) -> None:
        now = self._clock.now
        for device, _ in self._timed:
            device.advance(now)

    def _reschedule(self) -> None:
        self._stale = True

    def _find_deadline(self) -> None:
        """The earliest event that would raise INTR. If INTR is up already, none would."""
        first: int | None = None
        if not self.interrupt:
            for device, irq in self._timed:
                deadline = device.next_deadline()
                if deadline is None or (first is not None and deadline >= first):
                    continue
                if self.pic.would_interrupt(irq):
                    first = deadline
        self._deadline = first
        self._stale = False

    def state(self) -> dict[str, DeviceState]:
        """Every device at rest. Taking it changes nothing that anyone can see: it only catches up."""
        self._catch_up()
        return {name: device.state() for name, device in self.devices.items()}

    def check(self, states: dict[str, DeviceState]) -> dict[str, Any]:
        """The registers in a state, validated; StateError names device and field."""
        for name in self.devices:
            if name not in states:
                raise StateError(f"device {name}: missing from the state")
        for name in states:
            if name not in self.devices:
                raise StateError(f"device {name}: this machine has none")
        return {name: device.check(states[name]) for name, device in self.devices.items()}

    def restore(self, states: dict[str, DeviceState]) -> None:
        """Take over a state; raises as ``check``, and then nothing has changed."""
        self.load(self.check(states))

    def load(self, checked: dict[str, Any]) -> None:
        """Take over the registers that ``check`` returned."""
        for name, device in self.devices.items():
            device.load(checked[name])
        self._stale = True
