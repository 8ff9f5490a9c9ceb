"""The sections of a stream that hold a machine without its RAM; ``stream`` and ``live`` put them in order.

They are ``config``, then together ``cpu``, ``clock``, one ``device`` for each device by name, and one
``disk`` for each disk, followed by its ``clusters`` in ascending order. All but clusters are msgpack;
decoding checks each field against the types in ``model``. Equal machines give equal bytes.
"""

from __future__ import annotations

import re
import struct
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from hypervisor.errors import StateError, printable
from hypervisor.state.codec import PAGE_SIZE
from hypervisor.state.model import (
    CLUSTER,
    U63,
    ClockState,
    CpuState,
    DeviceState,
    DiskState,
    MachineConfig,
    MachineState,
)
from hypervisor.state.model import encode as encode_state
from hypervisor.state.sections import CLUSTERS_MAX, SectionReader, SectionWriter

DEVICES_MAX: Final = 256
CLUSTER_NUMBER: Final = struct.Struct("<Q")
SECTORS_IN_CLUSTER: Final = CLUSTER // 512

T = TypeVar("T", bound=Struct)


class Configuration(Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``config``: which machine this is."""

    config: MachineConfig
    identity: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    epoch: U63


class _Device(Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``device``."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    version: int
    fields: dict[str, Any]


class _Disk(Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``disk``. ``clusters`` of them follow, each its number (u64) and its contents."""

    base: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    clusters: Annotated[int, Meta(ge=0, le=1 << 45)]


# ------------------------------------------------------------------------------------------ writing


def write_configuration(out: SectionWriter, config: Configuration) -> None:
    """The section ``config``."""
    out.section("config", pack("config", config))


def write_machine(out: SectionWriter, state: MachineState) -> None:
    """All other sections, from ``cpu`` on."""
    if len(state.disks) != len(state.config.disks):
        raise StateError(
            f"the state is of {len(state.disks)} disks, its configuration of {len(state.config.disks)}"
        )
    out.section("cpu", pack("cpu", state.cpu))
    out.section("clock", pack("clock", state.clock))
    for name, device in sorted(state.devices.items()):
        out.section("device", pack(f"device {name}", _Device(name, device.version, device.fields)))
    for disk in state.disks:
        _write_disk(out, disk)


def _write_disk(out: SectionWriter, disk: DiskState) -> None:
    out.section("disk", pack("disk", _Disk(disk.base, len(disk.clusters))))
    numbers = sorted(disk.clusters)
    for start in range(0, len(numbers), CLUSTERS_MAX):
        chunk = numbers[start : start + CLUSTERS_MAX]
        out.section("clusters", b"".join(CLUSTER_NUMBER.pack(n) + disk.clusters[n] for n in chunk))
        out.flush()


def pack(section: str, value: Struct) -> bytes:
    """The msgpack of a section; StateError if it has something in it that cannot be written."""
    try:
        return encode_state(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StateError(f"section {section}: cannot be written: {error}") from None


# ------------------------------------------------------------------------------------------ reading


def expect(sections: SectionReader, name: str) -> None:
    """Go to the next section, which must be of that name."""
    found = sections.advance()
    if found != name:
        raise StateError(f"section {found} came where section {name} was to come")


def read_configuration(sections: SectionReader) -> Configuration:
    """The next section, which must be ``config``."""
    expect(sections, "config")
    head = read_section(sections, Configuration)
    if head.config.memory % PAGE_SIZE:
        raise StateError(
            f"section config: field config.memory: {head.config.memory} is no whole number of pages"
        )
    return head


def read_machine(sections: SectionReader, head: Configuration) -> MachineState:
    """The current section, which must be ``cpu``, and all that belongs to it; on to the one after them."""
    if sections.name != "cpu":
        raise StateError(f"section {sections.name} came where section cpu was to come")
    cpu = read_section(sections, CpuState)
    expect(sections, "clock")
    clock = read_section(sections, ClockState)
    devices: dict[str, DeviceState] = {}
    previous = ""
    sections.advance()
    while sections.name == "device":
        device = read_section(sections, _Device)
        if device.name <= previous:
            raise StateError(f"section device: {device.name!r} comes twice or out of order")
        if len(devices) == DEVICES_MAX:
            raise StateError(f"section device: more than {DEVICES_MAX} devices")
        devices[device.name] = DeviceState(device.version, device.fields)
        previous = device.name
        sections.advance()
    disks = tuple(_read_disk(sections, disk.sectors) for disk in head.config.disks)
    for name in head.config.devices:
        if name not in devices:
            raise StateError(f"section device: the configuration has {name!r}, but its state is missing")
    return MachineState(
        config=head.config,
        identity=head.identity,
        epoch=head.epoch,
        cpu=cpu,
        clock=clock,
        devices=devices,
        disks=disks,
    )


def _read_disk(sections: SectionReader, sectors: int) -> DiskState:
    """The disk whose section is the current one, and on to the section after it."""
    if sections.name != "disk":
        raise StateError(f"section {sections.name} came where section disk was to come")
    disk = read_section(sections, _Disk)
    clusters: dict[int, bytes] = {}
    previous = -1
    last = (sectors - 1) // SECTORS_IN_CLUSTER
    while sections.advance() == "clusters":
        payload = sections.payload()
        if not payload or len(payload) % (CLUSTER_NUMBER.size + CLUSTER):
            raise StateError(f"section clusters: {len(payload)} bytes are no whole number of clusters")
        for at in range(0, len(payload), CLUSTER_NUMBER.size + CLUSTER):
            (number,) = CLUSTER_NUMBER.unpack_from(payload, at)
            if number <= previous:
                raise StateError(f"section clusters: number {number} comes twice or out of order")
            if number > last:
                raise StateError(f"section clusters: number {number} is outside the disk")
            previous = number
            start = at + CLUSTER_NUMBER.size
            clusters[number] = payload[start : start + CLUSTER]
    if len(clusters) != disk.clusters:
        raise StateError(f"section disk: {disk.clusters} clusters were announced, {len(clusters)} came")
    return DiskState(disk.base, clusters)


def read_section(sections: SectionReader, kind: type[T]) -> T:
    """The payload of the current section, as what it must be."""
    return unpack(sections.payload(), kind, f"section {sections.name}")


def unpack(payload: bytes, kind: type[T], where: str) -> T:
    """Decode msgpack that came from outside.

    Raises:
        StateError: it is malformed, or a field does not fit; the message begins with ``where``.
    """
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        # msgspec says "Expected `int`, got `str` - at `$.gdtr.base`".
        text, _, path = printable(str(error)).partition(" - at `$")
        field = re.sub(r"^\.", "", path.rstrip("`"))
        raise StateError(f"{where}: {'field ' + field + ': ' if field else ''}{text}") from None
