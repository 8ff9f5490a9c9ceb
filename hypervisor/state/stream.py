"""A machine as a checked stream of bytes, for a file or a socket.

The sections come in this order: ``config``, ``cpu``, ``clock``, one ``device`` for each device by
name, one ``disk`` for each disk, followed by its ``clusters`` in ascending order, then ``ram`` chunks
with every page exactly once in ascending order, then ``end``. ``sections`` tells how they are framed
and ``pages`` what is in a chunk. Small sections are msgpack; decoding
checks each field against the types in ``model``. Equal machines give equal bytes.

A reader gets the state first and RAM after it, into a buffer that it supplies; the stream is good
only when ``read_ram`` has returned. So nothing that lives may be touched before: RAM goes to a machine
that has not run yet, and the state is restored at the very end. (Live migration will send chunks
in rounds before the state; that is another order of the same sections, and will be a flag in the header.)
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Callable
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from hypervisor.errors import StateError
from hypervisor.state.codec import PAGE_SIZE, bound, decode, encode, inspect
from hypervisor.state.model import (
    CLUSTER,
    STATE_VERSION,
    U63,
    ClockState,
    CpuState,
    DeviceState,
    DiskState,
    MachineConfig,
    MachineState,
)
from hypervisor.state.model import encode as encode_state
from hypervisor.state.sections import (
    CHUNK_PAGES_MAX,
    CLUSTERS_MAX,
    SECTION,
    ReadInto,
    SectionReader,
    SectionWriter,
    Write,
)

CHUNK_PAGES: Final = 128
"""Pages per chunk that we write: half a megabyte, which stays in a CPU's cache between the copying, the
checksum and the system call that sends it, and makes the Python around them cheap (measured: 32 pages
are 15 % slower, 256 pages 10 % faster where the cache is large)."""

DEVICES_MAX: Final = 256
CLUSTER_NUMBER: Final = struct.Struct("<Q")

Progress = Callable[[int, int], object]
"""Called with the bytes of guest RAM done so far, and all of them."""

T = TypeVar("T", bound=Struct)


class Configuration(Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``config``: which machine this is. A migration also sends it ahead, to have one made."""

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


class Summary(NamedTuple):
    """What a stream held."""

    length: int
    """Bytes of the stream."""
    zero: int
    """Pages that were all zero."""
    normal: int
    """Pages sent as they are."""
    digest: bytes
    """Names this stream: any other machine has another one."""


# ------------------------------------------------------------------------------------------ writing


def write_stream(
    state: MachineState, ram: memoryview, write: Write, *, progress: Progress | None = None
) -> Summary:
    """Write a machine that is not running.

    ``ram`` is its memory, indexed by guest-physical address.

    Raises:
        StateError: the state has something in it that cannot be written.
        Exception: whatever ``write`` raises.
    """
    total = state.config.memory
    if len(ram) != total or total % PAGE_SIZE:
        raise StateError(f"RAM has {len(ram)} bytes, the configuration says {total}")
    if len(state.disks) != len(state.config.disks):
        raise StateError(
            f"the state is of {len(state.disks)} disks, its configuration of {len(state.config.disks)}"
        )
    out = SectionWriter(write, STATE_VERSION)
    out.section("config", _pack("config", Configuration(state.config, state.identity, state.epoch)))
    out.section("cpu", _pack("cpu", state.cpu))
    out.section("clock", _pack("clock", state.clock))
    for name, device in sorted(state.devices.items()):
        out.section("device", _pack(f"device {name}", _Device(name, device.version, device.fields)))
    for disk in state.disks:
        _write_disk(out, disk)
    zero = normal = 0
    numbers = memoryview(array("I", range(total // PAGE_SIZE)))
    buffer = memoryview(bytearray(SECTION.size + bound(CHUNK_PAGES)))
    for start in range(0, len(numbers), CHUNK_PAGES):
        chunk = numbers[start : start + CHUNK_PAGES]
        length = encode(ram, chunk, buffer[SECTION.size :])
        out.ram(buffer, length)
        raw = (length - bound(0)) // PAGE_SIZE  # the directory of a chunk is shorter than a page
        normal += raw
        zero += len(chunk) - raw
        if progress is not None:
            progress((start + len(chunk)) * PAGE_SIZE, total)
    digest = out.end()
    return Summary(out.written, zero, normal, digest)


def _write_disk(out: SectionWriter, disk: DiskState) -> None:
    out.section("disk", _pack("disk", _Disk(disk.base, len(disk.clusters))))
    numbers = sorted(disk.clusters)
    for start in range(0, len(numbers), CLUSTERS_MAX):
        chunk = numbers[start : start + CLUSTERS_MAX]
        out.section("clusters", b"".join(CLUSTER_NUMBER.pack(n) + disk.clusters[n] for n in chunk))
        out.flush()


def _pack(section: str, value: Struct) -> bytes:
    try:
        return encode_state(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StateError(f"section {section}: cannot be written: {error}") from None


# ------------------------------------------------------------------------------------------ reading


class StreamReader:
    """Reads one stream: first ``read_state``, then ``read_ram``.

    Both raise :class:`StateError` for a stream that is truncated, altered or of another version, and
    then name the section and, inside of a state, the field.
    """

    def __init__(self, readinto: ReadInto) -> None:
        self._sections = SectionReader(readinto, STATE_VERSION)
        self._memory = 0

    def read_state(self) -> MachineState:
        """Everything but RAM. It is not to be used before ``read_ram`` has returned."""
        sections = self._sections
        self._expect("config")
        head = self._unpack(Configuration)
        self._memory = head.config.memory
        if self._memory % PAGE_SIZE:
            raise StateError(
                f"section config: field config.memory: {self._memory} is no whole number of pages"
            )
        self._expect("cpu")
        cpu = self._unpack(CpuState)
        self._expect("clock")
        clock = self._unpack(ClockState)
        devices: dict[str, DeviceState] = {}
        previous = ""
        sections.advance()
        while sections.name == "device":
            device = self._unpack(_Device)
            if device.name <= previous:
                raise StateError(f"section device: {device.name!r} comes twice or out of order")
            if len(devices) == DEVICES_MAX:
                raise StateError(f"section device: more than {DEVICES_MAX} devices")
            devices[device.name] = DeviceState(device.version, device.fields)
            previous = device.name
            sections.advance()
        disks = tuple(self._read_disk() for _ in head.config.disks)
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

    def _read_disk(self) -> DiskState:
        """The disk whose section is the current one, and on to the section after it."""
        sections = self._sections
        if sections.name != "disk":
            raise StateError(f"section {sections.name} came where section disk was to come")
        disk = self._unpack(_Disk)
        clusters: dict[int, bytes] = {}
        previous = -1
        while sections.advance() == "clusters":
            payload = sections.payload()
            if not payload or len(payload) % (CLUSTER_NUMBER.size + CLUSTER):
                raise StateError(f"section clusters: {len(payload)} bytes are no whole number of clusters")
            for at in range(0, len(payload), CLUSTER_NUMBER.size + CLUSTER):
                (number,) = CLUSTER_NUMBER.unpack_from(payload, at)
                if number <= previous:
                    raise StateError(f"section clusters: number {number} comes twice or out of order")
                previous = number
                start = at + CLUSTER_NUMBER.size
                clusters[number] = payload[start : start + CLUSTER]
        if len(clusters) != disk.clusters:
            raise StateError(f"section disk: {disk.clusters} clusters were announced, {len(clusters)} came")
        return DiskState(disk.base, clusters)

    def read_ram(self, ram: memoryview | None, *, progress: Progress | None = None) -> Summary:
        """The rest of the stream. Returns when all of it, the final digest too, was found good.

        With ``ram=None`` everything is checked and nothing kept. Otherwise ``ram`` must be as long as
        the configuration says; if this raises, part of it has been overwritten.
        """
        sections = self._sections
        if ram is not None and len(ram) != self._memory:
            raise StateError(f"RAM has {len(ram)} bytes, the stream is for {self._memory}")
        pages = self._memory // PAGE_SIZE
        buffer = memoryview(bytearray(bound(CHUNK_PAGES_MAX)))
        zero = normal = done = 0
        while sections.name == "ram":
            chunk = sections.payload_into(buffer)
            # Looking before decoding keeps a page that comes twice from being written twice.
            zeros, raws, first, last = inspect(chunk, pages)
            count = zeros + raws
            if first != done or last != done + count - 1:
                raise StateError(f"section ram: pages {first} to {last} came where page {done} was to come")
            if ram is not None:
                decode(chunk, ram)
            zero += zeros
            normal += raws
            done += count
            if progress is not None:
                progress(done * PAGE_SIZE, self._memory)
            sections.advance()
        if sections.name != "end":
            raise StateError(f"section {sections.name}: it has no place here")
        if done != pages:
            raise StateError(f"section ram: {done} pages came, the configuration says {pages}")
        digest = sections.end()
        return Summary(sections.taken, zero, normal, digest)

    def _expect(self, name: str) -> None:
        found = self._sections.advance()
        if found != name:
            raise StateError(f"section {found} came where section {name} was to come")

    def _unpack(self, kind: type[T]) -> T:
        payload = self._sections.payload()
        return unpack(payload, kind, f"section {self._sections.name}")


def unpack(payload: bytes, kind: type[T], where: str) -> T:
    """Decode msgpack that came from outside.

    Raises:
        StateError: it is malformed, or a field does not fit; the message begins with ``where``.
    """
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        # msgspec says "Expected `int`, got `str` - at `$.gdtr.base`".
        text, _, path = str(error).partition(" - at `$")
        field = re.sub(r"^\.", "", path.rstrip("`"))
        raise StateError(f"{where}: {'field ' + field + ': ' if field else ''}{text}") from None
