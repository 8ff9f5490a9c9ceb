"""What a hostile source sends: a good migration in which a few things are wrong. See hostile_migrations.py.

Everything follows from a seed. A conversation is a list of pieces, messages and sections, in the order in which
a source says them; they are altered as pieces, so that most of what is wrong has the right
checksums around it, and is found only by whoever looks at what it means.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import random
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hypervisor.boot.entry import Entry
from hypervisor.devices.image import DiskFile
from hypervisor.machine import VirtualMachine
from hypervisor.migration.channel import MESSAGE_MAX
from hypervisor.migration.protocol import PROTOCOL_VERSION, Commit, Configure, Hello, Settle
from hypervisor.state.codec import Encoder, bound, crc32c
from hypervisor.state.journal import Input, Journal
from hypervisor.state.live import LiveWriter
from hypervisor.state.model import MachineConfig
from hypervisor.state.packing import compress
from hypervisor.state.parts import Configuration
from hypervisor.state.sections import CHUNK_PAGES_MAX, HEADER, LIMITS, SECTION

PAGE = 4096
MEMORY = 1 << 20
MOST_MEMORY = 4 << 20
"""Bytes that the destination gives a guest; who wants more is refused."""
DISK = bytes(range(256)) * 256
"""The image that both sides have."""
TRANSFER = "a" * 32

NUMBERS = (
    0,
    1,
    -1,
    127,
    255,
    256,
    4095,
    4096,
    4097,
    65535,
    65536,
    1 << 20,
    MOST_MEMORY,
    (1 << 31) - 1,
    1 << 31,
)
NUMBERS += ((1 << 32) - 1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)
BOMBS = (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff")
BOMBS += (b"\x91" * 5000, b"\x81\xa1a" * 3000)
"""msgpack that announces four thousand million items, or is nested too deeply."""


@dataclass
class Message:
    """A framed message; what is None follows from the payload."""

    payload: bytes
    length: int | None = None
    checksum: int | None = None

    def to_bytes(self) -> bytes:
        length = len(self.payload) if self.length is None else self.length
        checksum = crc32c(self.payload) if self.checksum is None else self.checksum
        return struct.pack("<II", length & 0xFFFFFFFF, checksum & 0xFFFFFFFF) + self.payload


@dataclass
class Section:
    """A section of the stream; what is None follows from its place and its payload."""

    name: bytes
    payload: bytes
    index: int | None = None
    length: int | None = None
    checksum: int | None = None

    def head(self, place: int) -> bytes:
        index = place if self.index is None else self.index
        length = len(self.payload) if self.length is None else self.length
        checksum = crc32c(self.payload) if self.checksum is None else self.checksum
        fields = (self.name, index & 0xFFFFFFFF, length & 0xFFFFFFFF, checksum & 0xFFFFFFFF, 0)
        body = SECTION.pack(*fields)[:-4]
        return body + struct.pack("<I", crc32c(body))


@dataclass
class Raw:
    """Bytes that are nothing."""

    data: bytes


@dataclass
class Head:
    """The header of one more stream on the same connection: sections are counted anew."""

    data: bytes


Piece = Message | Section | Raw | Head


class Good(NamedTuple):
    """A migration with nothing wrong in it."""

    pieces: list[Piece]
    header: bytes
    """Of the stream; its sections are among the pieces."""
    digest: str
    """Of the machine that it is of."""


@functools.cache
def good(hybrid: bool = False) -> Good:
    """Three rounds, with pages in all encodings, one chunk compressed; a disk with two clusters.

    A hybrid one has a checkpoint, a journal, and pages that are to follow.
    """
    out = bytearray()
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "disk.img")
        image.write_bytes(DISK)
        with VirtualMachine(MachineConfig(MEMORY), [DiskFile(image)]) as vm:
            vm.enter_kernel(Entry(0))
            vm.disks.list[0].write(8, b"x" * 512)
            vm.disks.list[0].write(64, bytes(4096))
            noise = random.Random(1)
            for page in (0, 1, 2, 9, 10, 200, 255):
                vm.ram[page * PAGE : (page + 1) * PAGE] = noise.randbytes(PAGE)
            vm.ram[11 * PAGE : 12 * PAGE] = vm.ram[9 * PAGE : 10 * PAGE]
            state = vm.capture()
            plain = iter((True, False, True))
            writer = LiveWriter(
                out.extend,
                Configuration(state.config, state.identity, state.epoch),
                Encoder(vm.ram, 16, 7),
                lambda chunk: None if next(plain) else compress(chunk),
            )
            everything = b"\1" * (MEMORY // PAGE)
            for byte in (5, 9 * PAGE + 80):
                writer.pages(everything, 0, remember=True, dedupe=True)
                writer.end_round()
                vm.ram[byte] ^= 1
            few = b"\1" * 12 + bytes(len(everything) - 12)
            if hybrid:
                writer.checkpoint(state)
                writer.finish(state, few, Journal([Input(1000, 0, b"typed")], 7))
            else:
                writer.pages(few, 0)
                writer.finish(state)
            digest = vm.digest()
    pieces: list[Piece] = [
        message(Hello(PROTOCOL_VERSION, state.identity, state.epoch, TRANSFER)),
        message(Configure(state.config)),
        *sections(bytes(out)),
        message(Commit(TRANSFER, state.identity, state.epoch + 1)),
    ]
    return Good(pieces, bytes(out[: HEADER.size]), digest)


def message(value: Any) -> Message:
    return Message(msgspec.msgpack.encode(value))


def sections(stream: bytes) -> list[Section]:
    found = []
    at = HEADER.size
    while at < len(stream):
        name, _, length, _, _ = SECTION.unpack_from(stream, at)
        found.append(Section(name, stream[at + SECTION.size : at + SECTION.size + length]))
        at += SECTION.size + length
    return found


class Maker:
    """Everything about one conversation, drawn from its seed."""

    def __init__(self, seed: int, of: Good | None = None) -> None:
        """``of``: what is altered; by default a migration."""
        self.random = random.Random(seed)
        self.good = good(self.random.random() < 0.4) if of is None else of
        self.pieces = copy.deepcopy(self.good.pieces)
        self.header = self.good.header
        self.consistent = self.random.random() < 0.5
        """Is the digest at the end that of what was sent, or of the good stream?"""

    def make(self) -> bytes:
        """The bytes that the source sends. They never hand over a guest: the last word is missing, or wrong."""
        r = self.random
        for _ in range(r.choice((1, 1, 1, 2, 3))):
            r.choice(ALTERATIONS)(self)
        self.spoil_commit()
        data = self.to_bytes()
        if r.random() < 0.1:
            data = self.bytes_of(data)
        if r.random() < 0.1:
            data = data[: r.randrange(len(data) + 1)]
        return data

    def to_bytes(self) -> bytes:
        """The pieces behind each other. The stream's header comes before its first section."""
        out = bytearray()
        digest = hashlib.blake2b(self.header, digest_size=32)
        place, announced = 0, False
        for piece in self.pieces:
            if isinstance(piece, Raw):
                out += piece.data
                continue
            if isinstance(piece, Message):
                out += piece.to_bytes()
                continue
            if isinstance(piece, Head):
                out += piece.data
                digest = hashlib.blake2b(piece.data, digest_size=32)
                place, announced = 0, True
                continue
            if place == 0 and not announced:
                out += self.header
            name, payload = piece.name.rstrip(b"\0"), piece.payload
            if name == b"end" and self.consistent and len(payload) == 32:
                payload = digest.digest()
            head = Section(piece.name, payload, piece.index, piece.length, piece.checksum).head(place)
            if name != b"end":
                digest.update(head)
                if name not in (b"ram", b"packed"):
                    digest.update(payload)
            out += head + payload
            place += 1
        return bytes(out)

    def spoil_commit(self) -> None:
        """Whatever else is wrong, a right Commit must not be there: the guest would rightly run."""
        right = self.good.pieces[-1]
        for place, piece in enumerate(self.pieces):
            if piece == right:
                self.pieces[place] = self.random.choice(
                    (
                        Raw(b""),
                        message(Commit("b" * 32, "0" * 32, 1)),
                        message(Commit(TRANSFER, "0" * 32, 1)),
                        message(Settle(PROTOCOL_VERSION, "0" * 32, 0, TRANSFER, withdraw=True)),
                        Message(right.payload[:-1]),
                    )
                )

    # ------------------------------------------------------------------------------- whole pieces

    def choose(self, kind: type[Any], *names: bytes) -> int:
        """The place of a piece of that kind, and of one of these names; -1: there is none any more."""
        places = [
            place
            for place, piece in enumerate(self.pieces)
            if isinstance(piece, kind) and (not names or piece.name.rstrip(b"\0") in names)
        ]
        return self.random.choice(places) if places else -1

    def disorder(self) -> None:
        """Pieces are left out, come twice, or in another order."""
        r, pieces = self.random, self.pieces
        if len(pieces) < 2:
            return
        one, other = r.randrange(len(pieces)), r.randrange(len(pieces))
        kind = r.randrange(4)
        if kind == 0:
            del pieces[one]
        elif kind == 1:
            pieces.insert(other, copy.deepcopy(pieces[one]))
        elif kind == 2:
            pieces[one], pieces[other] = pieces[other], pieces[one]
        else:
            pieces[one:one] = [copy.deepcopy(pieces[other]) for _ in range(r.choice((2, 50, 500)))]

    def interrupt(self) -> None:
        """Something that does not belong there."""
        r = self.random
        stranger = r.choice(
            (
                Raw(r.randbytes(r.choice((1, 8, 24, 5000)))),
                Raw(b"GET / HTTP/1.1\r\n\r\n"),
                Raw(self.header),
                Message(r.choice(BOMBS)),
                message(r.choice(({}, [], None, 7, "Hello", {"type": "Hello"}, {"type": "Nobody"}))),
                message({"type": "Refused", "reason": "x" * r.choice((1, 1000, 60000))}),
                Section(self.name(), r.choice(BOMBS)),
                Section(b"ram", b""),
                Section(b"ram", struct.pack("<II", 0, 0)),
                Section(b"packed", compress(bytes(r.choice((0, 8, 1 << 20, 64 << 20))))),
            )
        )
        self.pieces.insert(r.randrange(len(self.pieces) + 1), stranger)

    def name(self) -> bytes:
        return self.random.choice([*(name.encode() for name in LIMITS), b"balloon", b"", b"\xff" * 8])

    # ------------------------------------------------------------------------------------- frames

    def misname_or_mislay(self) -> None:
        """A section's header is wrong, with the right checksum."""
        place = self.choose(Section)
        if place < 0:
            return
        section, r = self.pieces[place], self.random
        field = r.choice(("name", "index", "length", "checksum"))
        if field == "name":
            section.name = self.name()
        else:
            setattr(section, field, r.choice((*NUMBERS, r.randrange(1 << 32), len(section.payload) + 1)))

    def misframe(self) -> None:
        """A message's frame is wrong."""
        place = self.choose(Message)
        if place >= 0:
            field = self.random.choice(("length", "checksum"))
            setattr(self.pieces[place], field, self.random.choice((*NUMBERS, MESSAGE_MAX, MESSAGE_MAX + 1)))

    def head(self) -> None:
        """The stream's header is wrong."""
        r = self.random
        magic, version, state, flags, _ = HEADER.unpack(self.header)
        wrong = [magic, version, state, flags]
        place = r.randrange(4)
        wrong[place] = r.randbytes(8) if place == 0 else r.choice((0, 1, 2, 3, 65535))
        body = HEADER.pack(*wrong, 0)[:-4]
        self.header = body + struct.pack("<I", crc32c(body) if r.random() < 0.8 else 0)

    # ------------------------------------------------------------------------------ what they hold

    def structure(self) -> None:
        """A field of a message, or of a section with msgpack in it, is something else."""
        small = (b"config", b"cpu", b"clock", b"device", b"disk", b"round", b"snapshot", b"journal")
        place = self.choose(Section, *small) if self.random.random() < 0.75 else self.choose(Message)
        if place < 0:
            return
        piece = self.pieces[place]
        try:
            value = msgspec.msgpack.decode(piece.payload)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return  # it was altered before
        piece.payload = msgspec.msgpack.encode(self.other(value))

    def other(self, value: Any, depth: int = 0) -> Any:
        """A plain value in which one thing somewhere is different."""
        r = self.random
        inside = (
            list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        )
        if inside and r.random() < 0.9:
            key = r.choice(inside)
            changed = copy.copy(value)
            if r.random() < 0.1:
                del changed[key]
            elif isinstance(value, dict) and r.random() < 0.1:
                changed[r.choice(("more", 0, "type"))] = value[key]
            elif isinstance(value, list) and r.random() < 0.1:
                changed.insert(key, value[key])
            else:
                changed[key] = self.other(value[key], depth + 1)
            return changed
        return r.choice(
            (
                r.choice(NUMBERS),
                r.randrange(1 << 16),
                None,
                True,
                -1.5,
                "",
                "x" * r.choice((1, 32, 300, 30000)),
                r.randbytes(r.choice((0, 1, 512, 513, 4096))),
                [],
                [0] * r.choice((1, 6, 8, 1000)),
                {},
                {"x": 1},
            )
        )

    def bytes_of(self, data: bytes) -> bytes:
        """The same bytes, a few of them altered."""
        r = self.random
        changed = bytearray(data)
        for _ in range(r.choice((1, 1, 2, 20))):
            at = r.randrange(len(changed) + 1)
            kind = r.randrange(4)
            if kind == 0 and changed:
                changed[at % len(changed)] ^= 1 << r.randrange(8)
            elif kind == 1:
                changed[at:at] = r.randbytes(r.choice((1, 4, 100)))
            elif kind == 2:
                del changed[at : at + r.choice((1, 4, 100, 5000))]
            else:
                changed[at : at + 4] = struct.pack("<I", r.choice(NUMBERS) & 0xFFFFFFFF)
        return bytes(changed)

    def payload(self) -> None:
        """The bytes of a payload are altered, and the checksum is right all the same."""
        place = self.choose(Section) if self.random.random() < 0.8 else self.choose(Message)
        if place >= 0:
            piece = self.pieces[place]
            piece.payload = (
                self.random.choice(BOMBS) if self.random.random() < 0.1 else self.bytes_of(piece.payload)
            )

    def clusters(self) -> None:
        """A disk's changes are for other sectors, or cut."""
        place = self.choose(Section, b"clusters")
        if place < 0:
            return
        section, r = self.pieces[place], self.random
        if r.random() < 0.3:
            section.payload = section.payload * r.choice((2, 64))
        elif len(section.payload) >= 8:
            number = r.choice(NUMBERS) & (1 << 64) - 1
            section.payload = struct.pack("<Q", number) + section.payload[8:]

    # -------------------------------------------------------------------------------------- pages

    def chunk(self) -> None:
        """The directory of a RAM chunk, or its data, is wrong."""
        place = self.choose(Section, b"ram")
        if place < 0:
            return
        section, r = self.pieces[place], self.random
        payload = bytearray(section.payload)
        if len(payload) < 8:
            return
        count = min(struct.unpack_from("<I", payload)[0], (len(payload) - 8) // 8)
        kind = r.randrange(6)
        if kind == 0:
            field = r.choice((0, 4))
            payload[field : field + 4] = struct.pack("<I", r.choice((*NUMBERS, count + 1)) & 0xFFFFFFFF)
        elif count:
            entry = 8 + 8 * r.randrange(count)
            if kind == 1:
                number = r.choice((*NUMBERS, MEMORY // PAGE, MEMORY // PAGE - 1, 5)) & 0xFFFFFFFF
                payload[entry : entry + 4] = struct.pack("<I", number)
            elif kind == 2:
                payload[entry + 4 : entry + 6] = struct.pack("<H", r.choice((0, 1, 2, 3, 4, 65535)))
            elif kind == 3:
                payload[entry + 6 : entry + 8] = struct.pack(
                    "<H", r.choice((0, 1, 4, 255, 256, 4095, 4097, 65535))
                )
            elif kind == 4:
                twin = bytes(payload[entry : entry + 8])
                payload[entry:entry] = twin
                payload[0:4] = struct.pack("<I", count + 1)
            else:
                at = 8 + 8 * count + r.randrange(max(len(payload) - 8 - 8 * count, 1))
                payload[at : at + 2] = r.choice((b"\0\0", b"\xff\xff", b"\0\2", b"\1\0"))
        section.payload = bytes(payload)

    def long_chunk(self) -> None:
        """A chunk as long as one may be, and longer; compressed or not."""
        r = self.random
        count = r.choice((1, CHUNK_PAGES_MAX, CHUNK_PAGES_MAX + 1, 4000))
        entry = struct.pack("<IHH", 0, r.choice((0, 1, 2, 3)), r.choice((1, 4096, 65535)))
        chunk = struct.pack("<II", count, r.choice((0, count * PAGE))) + entry * count
        chunk += bytes(r.choice((0, 100, bound(CHUNK_PAGES_MAX) - len(chunk))))
        section = Section(b"packed", compress(chunk)) if r.random() < 0.5 else Section(b"ram", chunk)
        self.pieces.insert(r.randrange(3, max(len(self.pieces), 4)), section)

    def repack(self) -> None:
        """A compressed chunk holds something else, or is no frame any more."""
        place = self.choose(Section, b"packed")
        if place < 0:
            return
        section, r = self.pieces[place], self.random
        section.payload = r.choice(
            (
                lambda: self.bytes_of(section.payload),
                lambda: section.payload * 2,
                lambda: compress(compress(section.payload)),
                lambda: compress(r.randbytes(r.randrange(200))),
                lambda: b"",
            )
        )()


ALTERATIONS: tuple[Callable[[Maker], None], ...] = (
    Maker.disorder,
    Maker.interrupt,
    Maker.misname_or_mislay,
    Maker.misframe,
    Maker.head,
    Maker.structure,
    Maker.structure,
    Maker.structure,
    Maker.payload,
    Maker.clusters,
    Maker.chunk,
    Maker.chunk,
    Maker.chunk,
    Maker.long_chunk,
    Maker.repack,
)
