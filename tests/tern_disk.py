"""What tests need to know about tern's disk: images, what the program ``churn`` leaves on them, and how to
pull the plug while it does."""

from __future__ import annotations

import importlib.util
import re
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tern_guest import GUESTS

SECTOR = 512
KEPT = 5
"""How many of its files churn leaves (guests/tern/user/churn.c)."""


def _load() -> ModuleType:
    path = GUESTS / "tern" / "tools" / "ternfs.py"
    spec = importlib.util.spec_from_file_location("ternfs", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["ternfs"] = module
    spec.loader.exec_module(module)
    return module


ternfs = _load()


def small_disk() -> ternfs.Disk:
    """Empty, and soon full: half a MiB, 30 files, a log of 40 blocks."""
    return ternfs.Disk.make(512, 32, 40)


def drive(image: Path) -> tuple[str, ...]:
    """QEMU's options for tern's disk. Written through: what QEMU was given before it was killed is there."""
    return ("-drive", f"file={image},format=raw,if=ide,index=0")


def churned(number: int) -> bytes:
    """The contents of churn's file of that round."""
    x = (number * 2654435761 + 1) & 0xFFFFFFFF
    words = []
    for _ in range(100 + number * 377 % 2900):
        x ^= x << 13 & 0xFFFFFFFF
        x ^= x >> 17
        x ^= x << 5 & 0xFFFFFFFF
        words.append(x)
    return struct.pack(f"<{len(words)}I", *words)


def assert_churned(data: bytes, synced: int) -> int:
    """Is everything on the disk that churn had synced, and does all fit together? Returns the last round."""
    disk = ternfs.Disk(data)
    disk.replay()
    assert disk.check() == []
    files = disk.files()
    lines = (files.get("/rounds") or b"").decode().split()
    assert lines == [str(i + 1) for i in range(len(lines))]
    assert len(lines) >= synced
    last = len(lines)
    # Replaced in one go: there is never none, nor half of one.
    assert files.get("/last", b"0\n") in (b"%d\n" % last, b"%d\n" % (last - 1) if last > synced else b"")
    for number in range(max(1, last - KEPT + 2), last + 1):
        assert files[f"/r{number}"] == churned(number), number
    for path, contents in files.items():
        if path.startswith("/r") and path != "/rounds":
            assert contents == churned(int(path[2:])), path
    return last


def churned_until_killed(command: Sequence[str], image: Path, last: int, moment: int, pause: int) -> int:
    """Run a machine in which churn works on the image, and kill it, a pause after round ``moment`` was synced.

    Everything that churn had told to be safe must be there. Returns the last round on the disk; ``last`` is
    what that was before. A pause of 1 is some ten nanoseconds: sleeping would always end at a tick.
    """
    console = b""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=GUESTS.parent, bufsize=0
    ) as machine:
        assert machine.stdout
        while b"synced %d\r\n" % moment not in console:
            got = machine.stdout.read(100)
            assert got, console
            console += got
        for _ in range(pause):
            pass
        machine.kill()
        console += machine.stdout.read()
    assert b"KiB" in console, "it was not mounted"
    synced = [int(number) for number in re.findall(rb"synced (\d+)\r\n", console)]
    assert synced == list(range(last + 1, synced[-1] + 1))
    return assert_churned(image.read_bytes(), synced[-1])


@dataclass
class Write:
    """One write to the disk, or a flush, in the order in which the drive was told."""

    sector: int
    data: bytes
    flush: bool


def writes(log: bytes) -> Iterator[Write]:
    """QEMU's blklogwrites log, in the format of Linux's dm-log-writes."""
    magic, _, entries, sector_size = struct.unpack_from("<QQQI", log)
    assert magic == 0x6A736677736872
    at = sector_size
    for _ in range(entries):
        sector, count, flags, _ = struct.unpack_from("<QQQQ", log, at)
        at += sector_size
        data = log[at : at + count * sector_size] if not flags & 4 else b""
        at += len(data)
        yield Write(sector * sector_size // SECTOR, data, bool(flags & 1))
