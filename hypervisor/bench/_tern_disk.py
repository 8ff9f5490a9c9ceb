"""An empty file system of tern's: superblock, inodes, bitmap and root directory, as guests/tern/kernel/ternfs.h
describes them. guests/tern/tools/ternfs.py can do more, but does not come with the package.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

BLOCK = 1024
INODE = struct.Struct("<HHI12III")
INODES, LOG = 512, 65
DIRECTORY, ROOT = 2, 1


def make_disk(path: Path, blocks: int) -> None:
    """Write an image of so many KiB."""
    inode_start = 2 + LOG
    bitmap_start = inode_start + -(-INODES * INODE.size // BLOCK)
    data_start = bitmap_start + -(-blocks // (8 * BLOCK))
    head = struct.pack(
        "<8s8I", b"TERNFS1", BLOCK, blocks, 2, LOG, inode_start, INODES, bitmap_start, data_start
    )
    data = bytearray((data_start + 1) * BLOCK)

    def place(offset: int, what: bytes) -> None:
        data[offset : offset + len(what)] = what

    place(BLOCK, head + struct.pack("<I", zlib.crc32(head)))
    entry = struct.pack("<I28s", ROOT, b"..")
    root = INODE.pack(DIRECTORY, 1, len(entry), data_start, *bytes(11), 0, 0)
    place(inode_start * BLOCK + ROOT * INODE.size, root)
    used = (1 << data_start + 1) - 1
    place(bitmap_start * BLOCK, used.to_bytes(-(-(data_start + 1) // 8), "little"))
    place(data_start * BLOCK, entry)
    with path.open("wb") as image:
        image.write(data)
        image.truncate(blocks * BLOCK)
