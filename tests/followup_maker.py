"""What comes after a handover, or without one: pages, what is missing of them, and a backup's epochs.

Good conversations, for migration_maker.py to alter. See hostile_followups.py for what is done with them.
"""

from __future__ import annotations

import functools
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Literal
from unittest import mock

from migration_maker import MEMORY, PAGE, TRANSFER, Good, Head, Maker, Message, Piece, message, sections

from hypervisor.boot.entry import Entry
from hypervisor.machine import VirtualMachine
from hypervisor.migration import Timeouts
from hypervisor.migration.channel import Channel
from hypervisor.migration.protocol import Complete, Want
from hypervisor.migration.replication.backup import Backup
from hypervisor.migration.replication.primary import Replication
from hypervisor.state.codec import Encoder
from hypervisor.state.model import MachineConfig
from hypervisor.state.packing import compress
from hypervisor.state.residue import PageWriter, write_missing
from hypervisor.state.sections import HEADER, MAGIC, SECTION

Kind = Literal["pages", "missing", "epochs"]
PAGES = MEMORY // PAGE
HERE = range(40, 44)
"""Pages that are not missing."""
PATIENT = Timeouts(connect=20, message=20, settle=0)
BUSY = bytes.fromhex("66ba f803 ee 899b 00500000 81c3 00080000 b9 00040000 e2fe ebe8")
"""Prints a byte, stores to a page, waits a little, and so on."""


class FollowupMaker(Maker):
    """There is no Commit in these: nothing that is sent may start a guest."""

    def spoil_commit(self) -> None:
        pass


def absent() -> bytearray:
    """A byte for each page, 1 if it is missing."""
    marks = bytearray(b"\1" * PAGES)
    marks[HERE.start : HERE.stop] = bytes(len(HERE))
    return marks


def contents() -> bytes:
    """What the pages hold that are missing: noise, zeros, and what can be compressed."""
    noise = random.Random(1)
    pages = [noise.randbytes(PAGE) if page % 16 == 3 else bytes(PAGE) for page in range(PAGES)]
    pages[100:108] = [b"again and again "[: 1 << page % 5] * (PAGE >> page % 5) for page in range(8)]
    return b"".join(pages)


def from_stream(stream: bytes) -> Good:
    return Good([*sections(stream)], stream[: HEADER.size], "")


@functools.cache
def good_pages() -> Good:
    """What a source sends after Ack."""
    out = bytearray()
    packed = iter([False, True] * PAGES)
    writer = PageWriter(
        out.extend, Encoder(contents()), 32, lambda chunk: compress(chunk) if next(packed) else None
    )
    for first in range(0, PAGES, 32):
        writer.pages(absent(), first, first + 32)
    writer.finish()
    return from_stream(bytes(out))


@functools.cache
def good_missing() -> Good:
    """What a destination sends to a source that comes back: what is missing, some wishes, the end."""
    out = bytearray()
    write_missing(out.extend, absent())
    good = from_stream(bytes(out))
    wishes: list[Piece] = [message(Want(page)) for page in (0, 255, 7, 7, 41)]
    return good._replace(pieces=[*good.pieces, *wishes, message(Complete(TRANSFER))])


@functools.cache
def good_epochs() -> tuple[Good, str]:
    """What a primary sends to its backup, from Protect to some epochs of a guest that works; and the pairing."""
    said = bytearray()
    write = Channel.write

    def note(channel: Channel, data: bytes) -> None:
        if channel is replication._channel:
            said.extend(data)
        write(channel, data)

    with tempfile.TemporaryDirectory() as folder, VirtualMachine(MachineConfig(MEMORY)) as vm:
        vm.ram[0x1000 : 0x1000 + len(BUSY)] = BUSY
        vm.enter_kernel(Entry(0x1000))
        fence = Path(folder, "fence")
        with Backup(f"unix:{folder}/socket", fence=fence, timeouts=PATIENT, silence=20) as backup:
            follower = threading.Thread(target=backup.follow, args=(VirtualMachine.create,))
            follower.start()
            replication = Replication(
                vm, backup.address, epochs=50, fence=fence, timeouts=PATIENT, silence=20
            )
            with mock.patch.object(Channel, "write", note):
                replication.start()
                for epochs in (1, 2, 3, 4):
                    vm.run(instructions=5_000)
                    while replication.report.epochs < epochs:
                        time.sleep(0.001)
                replication.dismiss()
            follower.join()
            pairing = replication._pairing
    return split(bytes(said)), pairing


def split(said: bytes) -> Good:
    """Messages and streams, as they come one after the other."""
    pieces: list[Piece] = []
    header = b""
    at = 0
    while at < len(said):
        if said[at : at + len(MAGIC)] != MAGIC:
            length = int.from_bytes(said[at : at + 4], "little")
            pieces.append(Message(said[at + 8 : at + 8 + length]))
            at += 8 + length
            continue
        if header:
            pieces.append(Head(said[at : at + HEADER.size]))
        header = header or said[at : at + HEADER.size]
        end = at + HEADER.size
        name = b""
        while name.rstrip(b"\0") != b"end":
            name, _, length, _, _ = SECTION.unpack_from(said, end)
            end += SECTION.size + length
        pieces += sections(said[at:end])
        at = end
    return Good(pieces, header, "")
