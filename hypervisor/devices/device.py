"""What every device of the ISA PC has in common.

A device is registers and time. The monitor calls it for a port access and when virtual time has
reached the device's next deadline; in between nothing runs. So that a device need not be called at
each of its own edges, ``advance`` may come late: it must then leave the device, and the interrupt
lines it drives, exactly as if it had been called at every edge.

The registers that make up a device's state are plain attributes. Their names and permitted values
are declared once, as a msgspec structure (``Fields``), from which ``state`` and ``restore`` follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Protocol

import msgspec
from msgspec import Meta, Struct

from hypervisor.errors import StateError, printable
from hypervisor.state.model import DeviceState

SECOND = 1_000_000_000
"""Nanoseconds in a second; all device time is integer virtual nanoseconds."""

Bit = Annotated[int, Meta(ge=0, le=1)]
U8 = Annotated[int, Meta(ge=0, le=0xFF)]
Time = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
"""A virtual time in nanoseconds."""

Line = Callable[[int], object]
"""An interrupt line: called with its new level, 0 or 1. Setting it to the same level is harmless."""

Rescheduled = Callable[[], object]
"""How a device says that its next deadline may have changed."""


class Clock(Protocol):
    """Virtual time as the monitor keeps it; current whenever a device is called."""

    now: int


class Registers:
    """A set of registers that can be saved: a device, or one of the equal parts of a device."""

    Fields: ClassVar[type[Struct]]
    """The registers' names and permitted values; each is an attribute of the object."""

    def fields(self) -> dict[str, Any]:
        """The registers as plain data that later changes do not reach."""
        result = {}
        for name in self.Fields.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, bytearray):
                value = bytes(value)
            result[name] = value
        return result

    def load(self, fields: Any) -> None:
        """Take over registers that were checked before."""
        for name in self.Fields.__struct_fields__:
            value = getattr(fields, name)
            if isinstance(getattr(self, name), bytearray):
                value = bytearray(value)
            setattr(self, name, value)


class Device(Registers):
    """Base of all devices; offsets are within the ranges that it claimed on the bus."""

    name: ClassVar[str]
    """Key of the device in the machine's state."""
    version: ClassVar[int] = 1
    """Version of its state."""

    def read(self, offset: int, size: int) -> int:
        """The value of ``size`` (1, 2 or 4) bytes at ``offset``."""
        raise NotImplementedError

    def write(self, offset: int, size: int, value: int) -> None:
        """Store ``size`` (1, 2 or 4) bytes at ``offset``."""
        raise NotImplementedError

    def burst(self, offset: int, size: int, *, to_guest: bool) -> int:
        """How many accesses of this kind would do nothing but move data, just now: no line changes, and no
        deadline. A device without such a thing as a data buffer has none.
        """
        return 0

    def read_burst(self, offset: int, size: int) -> bytes:
        """``size`` bytes, no more than ``burst`` said."""
        raise NotImplementedError

    def write_burst(self, offset: int, data: bytes) -> None:
        """So many bytes, no more than ``burst`` said."""
        raise NotImplementedError

    def next_deadline(self) -> int | None:
        """Virtual time of the next event of its own that something outside may notice."""
        return None

    def advance(self, now: int) -> None:
        """Do everything that is due at or before ``now``."""

    def reset(self) -> None:
        """To the state after power-on."""
        raise NotImplementedError

    def state(self) -> DeviceState:
        """The device at rest; taking it has no side effects."""
        return DeviceState(self.version, self.fields())

    def restore(self, state: DeviceState) -> None:
        """Take over a state; StateError names what does not fit, and then nothing has changed."""
        self.load(self.check(state))

    def check(self, state: DeviceState) -> Any:
        """The registers in ``state``, every one validated, ready for ``load``."""
        if state.version != self.version:
            raise StateError(f"device {self.name}: state version {state.version}, expected {self.version}")
        try:
            return msgspec.convert(state.fields, self.Fields, builtin_types=(bytes, bytearray))
        except msgspec.ValidationError as error:
            raise StateError(f"device {self.name}: {printable(str(error))}") from None
