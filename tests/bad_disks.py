"""Disks that are none, or whose superblock lies: tern must not mount them, and nobody may come to harm."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

from tern_disk import small_disk, ternfs


def with_superblock(**changes: int) -> bytes:
    """A disk whose superblock says something else, under a good checksum."""
    fields = (
        "size",
        "blocks",
        "log_start",
        "log_blocks",
        "inode_start",
        "inodes",
        "bitmap_start",
        "data_start",
    )
    data = small_disk().data
    _, *numbers, _ = ternfs.SUPERBLOCK.unpack_from(data, 1024)
    known = dict(zip(fields, numbers, strict=True)) | changes
    head = struct.pack("<8s8I", b"TERNFS1", *known.values())
    data[1024 : 1024 + len(head) + 4] = head + struct.pack("<I", zlib.crc32(head))
    return bytes(data)


BAD: dict[str, Callable[[], bytes]] = {
    "one sector": lambda: bytes(512),
    "three sectors": lambda: bytes(small_disk().data[:1536]),
    "zeros": lambda: bytes(100_000),
    "noise": lambda: random.Random(4).randbytes(100 * 1024),
    "cut off": lambda: bytes(small_disk().data[: 300 * 1024]),
    "no blocks": lambda: with_superblock(blocks=0),
    "too many blocks": lambda: with_superblock(blocks=0xFFFFFFFF),
    "far too many inodes": lambda: with_superblock(inodes=0xFFFFFFF0),
    "no inodes": lambda: with_superblock(inodes=0),
    "log nowhere": lambda: with_superblock(log_start=0xFFFFFFF0),
    "log of nothing": lambda: with_superblock(log_blocks=0),
    "log of too much": lambda: with_superblock(log_blocks=5000),
    "bitmap nowhere": lambda: with_superblock(bitmap_start=0x80000000),
    "data nowhere": lambda: with_superblock(data_start=600),
    "blocks of another size": lambda: with_superblock(size=4096),
}
