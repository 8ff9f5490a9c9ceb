"""What a virtual machine is when it is not running, as plain typed data.

Everything a guest can ever observe is here or in its RAM; everything that the monitor can derive
(shadow tables, decoded instructions, translated code, TLBs) is not. A component turns itself into
one of these with ``state()`` and back with ``restore(...)``; taking a state has no side effect.

The structures are msgspec types: decoding checks every field's type and names the field that does
not fit. ``hypervisor.state.stream`` writes them to a file or a socket.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

STATE_VERSION = 2
"""Version of the structures in this module; part of the stream's header."""

CLUSTER = 4096
"""Bytes of a disk that are remembered together when the guest has written to one of them."""

U16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
U32 = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
U63 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class DiskConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """A disk as it was given. Which file it is in is the business of each host."""

    name: Annotated[str, Meta(max_length=255)]
    """The image's file name without directories: for people."""
    sectors: Annotated[int, Meta(ge=1, le=1 << 48)]
    persistent: bool = False
    """Changes are written to the image, instead of being part of the state."""


class MachineConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What was chosen when the machine was built; never changes while it lives.

    ``technique`` may differ between source and destination (it is derived state), everything else
    must be equal there.
    """

    memory: Annotated[int, Meta(ge=1 << 20, le=3 << 30)]
    """Bytes of guest RAM, a multiple of 4096."""
    technique: str = "trap"
    clock: str = "exact"
    """``exact`` (virtual time counts instructions) or ``wall`` (virtual time is the host's)."""
    devices: tuple[str, ...] = ()
    """Names of the devices, in the order of the bus."""
    disks: Annotated[tuple[DiskConfig, ...], Meta(max_length=2)] = ()


class Segment(Struct, frozen=True, forbid_unknown_fields=True):
    """A segment register with its hidden part, as the guest believes it to be.

    ``attributes`` has the layout of Intel's VMX access rights (SDM 3C, 25.4.1): bits 0-7 are the
    descriptor's access byte, 12-15 AVL, L, D/B and G, bit 16 says that the segment is unusable.
    ``limit`` is in bytes.
    """

    selector: U16
    base: U32
    limit: U32
    attributes: U32


class DescriptorTable(Struct, frozen=True, forbid_unknown_fields=True):
    base: U32
    limit: U16


class CpuState(Struct, frozen=True, forbid_unknown_fields=True):
    """The virtual CPU: what the guest believes its processor holds."""

    general: tuple[U32, U32, U32, U32, U32, U32, U32, U32]
    """EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI: the order of their encoding."""
    eip: U32
    eflags: U32
    segments: tuple[Segment, Segment, Segment, Segment, Segment, Segment]
    """ES, CS, SS, DS, FS, GS: the order of their encoding."""
    ldtr: Segment
    tr: Segment
    gdtr: DescriptorTable
    idtr: DescriptorTable
    cr0: U32
    cr2: U32
    cr3: U32
    cr4: U32
    debug: tuple[U32, U32, U32, U32, U32, U32, U32, U32]
    fpu: Annotated[bytes, Meta(min_length=512, max_length=512)]
    """x87, MMX and SSE registers as FXSAVE stores them (SDM 1, 10.5.1)."""
    msrs: dict[U32, Annotated[int, Meta(ge=0)]]
    halted: bool
    interrupt_shadow: bool
    """Interrupts wait for one more instruction (after STI, MOV SS and POP SS)."""


class ClockState(Struct, frozen=True, forbid_unknown_fields=True):
    instructions: U63
    """Guest instructions retired since boot."""
    skipped: U63
    """Nanoseconds of virtual time that passed while the guest was idle."""


class DeviceState(Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    fields: dict[str, Any]


class DiskState(Struct, frozen=True, forbid_unknown_fields=True):
    """What a disk holds: an image, and what was changed since."""

    base: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    """Digest of the image's contents; of a persistent disk, of all that it holds."""
    clusters: dict[int, bytes]
    """Number -> the 4 KiB that the disk holds there instead of what the image does."""


class MachineState(Struct, frozen=True, forbid_unknown_fields=True):
    """A whole machine without its RAM."""

    config: MachineConfig
    identity: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    """Stays the same through saves and migrations: one identity, one guest."""
    epoch: U63
    """Grows by one with every change of owner; the higher one is the guest that counts."""
    cpu: CpuState
    clock: ClockState
    devices: dict[str, DeviceState]
    disks: tuple[DiskState, ...] = ()


def encode(value: Struct) -> bytes:
    """The canonical bytes of a state: equal states give equal bytes.

    msgspec's own order refuses keys that are not strings, which ``msrs`` has; and only this one value does.
    """
    try:
        return msgspec.msgpack.encode(value, order="sorted")
    except TypeError:
        pass
    plain = msgspec.to_builtins(value, builtin_types=(bytes, bytearray, memoryview))
    return msgspec.msgpack.encode(_ordered(plain))


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    return value
