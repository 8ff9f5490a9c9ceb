"""QEMU's isa-debug-exit: a guest ends the virtual machine with a status.

Source: QEMU 7.2, hw/misc/debugexit.c. The guests and the tests use it at port 0xf4, four bytes wide
(``-device isa-debug-exit,iobase=0xf4,iosize=0x04``).
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from hypervisor.devices.device import Device


class DebugExitFields(Struct, forbid_unknown_fields=True):
    """It has no registers."""


class DebugExit(Device):
    """Calls ``on_exit`` with the exit status that QEMU's process would end with."""

    name = "debug-exit"
    Fields = DebugExitFields

    def __init__(self, on_exit: Callable[[int], object]) -> None:
        self._on_exit = on_exit

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self._on_exit((value << 1) | 1)

    def reset(self) -> None:
        pass
