#!/usr/bin/env python3
"""tern's file system in an image file: make one, look into it, check it.

    ternfs.py make IMAGE [--size KIB] [--inodes N] [--log BLOCKS] [PATH=FILE ...]
    ternfs.py list IMAGE
    ternfs.py get IMAGE PATH
    ternfs.py check IMAGE

``list``, ``get`` and ``check`` show the image as tern would find it, with what the log holds. ``check``
ends with 1 and says what is wrong if something is. The layout is described in ``kernel/ternfs.h``.
"""

from __future__ import annotations

import argparse
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = 1024
SUPERBLOCK = struct.Struct("<8s9I")
INODE = struct.Struct("<HHI12III")
ENTRY = struct.Struct("<I28s")
LOG_HEADER = struct.Struct("<4I")
LOG_MAGIC = 0x4C4E5254
FILE, DIRECTORY = 1, 2
ROOT = 1
DIRECT, POINTERS = 12, BLOCK // 4
MAX_SIZE = (DIRECT + POINTERS + POINTERS * POINTERS) * BLOCK


class DiskError(Exception):
    """The image is not what it should be; the message says where."""


@dataclass
class Inode:
    """A file or directory."""

    type: int = 0
    links: int = 0
    size: int = 0
    direct: tuple[int, ...] = (0,) * DIRECT
    indirect: int = 0
    twice_indirect: int = 0

    @classmethod
    def unpack(cls, data: bytes) -> Inode:
        kind, links, size, *blocks = INODE.unpack(data)
        return cls(kind, links, size, tuple(blocks[:DIRECT]), *blocks[DIRECT:])

    def pack(self) -> bytes:
        return INODE.pack(self.type, self.links, self.size, *self.direct, self.indirect, self.twice_indirect)


class Disk:
    """An image in memory. ``data`` is changed by ``replay`` and ``write_file`` only."""

    def __init__(self, data: bytes | bytearray) -> None:
        self.data = bytearray(data)
        if len(data) < 2 * BLOCK:
            raise DiskError("too small")
        (magic, size, *numbers, checksum) = SUPERBLOCK.unpack_from(self.data, BLOCK)
        self.blocks, self.log_start, self.log_blocks, self.inode_start, self.inodes, *rest = numbers
        self.bitmap_start, self.data_start = rest
        if magic != b"TERNFS1\0" or size != BLOCK:
            raise DiskError("no file system of tern's")
        if zlib.crc32(self.data[BLOCK : BLOCK + SUPERBLOCK.size - 4]) != checksum:
            raise DiskError("the superblock is damaged")
        if self.blocks * BLOCK > len(data):
            raise DiskError("the image is smaller than the file system")

    @classmethod
    def make(cls, kib: int = 4096, inodes: int = 512, log: int = 65) -> Disk:
        """An empty file system; ``log`` counts the header, too."""
        inode_start = 2 + log
        bitmap_start = inode_start + -(-inodes * INODE.size // BLOCK)
        data_start = bitmap_start + -(-kib // (8 * BLOCK))
        if data_start + 1 >= kib or not 30 <= log <= 252 or not 2 <= inodes <= 16384 or kib > 128 * 1024:
            raise DiskError("no file system can have such a size")
        data = bytearray(kib * BLOCK)
        numbers = (BLOCK, kib, 2, log, inode_start, inodes, bitmap_start, data_start)
        head = struct.pack("<8s8I", b"TERNFS1", *numbers)
        data[BLOCK : BLOCK + SUPERBLOCK.size] = head + struct.pack("<I", zlib.crc32(head))
        disk = cls(data)
        for block in range(data_start):
            disk._set_used(block)
        disk._store(ROOT, Inode(DIRECTORY, 1))
        disk._append(ROOT, ENTRY.pack(ROOT, b".."))
        return disk

    def block(self, number: int) -> bytes:
        if not 0 <= number < self.blocks:
            raise DiskError(f"there is no block {number}")
        return bytes(self.data[number * BLOCK : (number + 1) * BLOCK])

    # ---- the log ----

    def replay(self) -> int:
        """Do what tern does when it starts: finish what was committed. Returns how many blocks that were."""
        header = self.block(self.log_start)
        magic, count, checksum, _ = LOG_HEADER.unpack_from(header)
        if magic != LOG_MAGIC or not 0 < count < self.log_blocks:
            return 0
        homes = struct.unpack_from(f"<{count}I", header, LOG_HEADER.size)
        crc = zlib.crc32(header[LOG_HEADER.size : LOG_HEADER.size + 4 * count], zlib.crc32(header[4:8]))
        copies = [self.block(self.log_start + 1 + i) for i in range(count)]
        for copy in copies:
            crc = zlib.crc32(copy, crc)
        if crc != checksum or any(not self.inode_start <= home < self.blocks for home in homes):
            return 0
        for home, copy in zip(homes, copies, strict=True):
            self.data[home * BLOCK : (home + 1) * BLOCK] = copy
        self.data[self.log_start * BLOCK : (self.log_start + 1) * BLOCK] = LOG_HEADER.pack(
            LOG_MAGIC, 0, 0, 0
        ) + bytes(BLOCK - LOG_HEADER.size)
        return int(count)

    # ---- reading ----

    def inode(self, number: int) -> Inode:
        if not 0 < number < self.inodes:
            raise DiskError(f"there is no inode {number}")
        at = self.inode_start * BLOCK + number * INODE.size
        return Inode.unpack(bytes(self.data[at : at + INODE.size]))

    def _pointers(self, block: int) -> tuple[int, ...]:
        return struct.unpack(f"<{POINTERS}I", self.block(block)) if block else (0,) * POINTERS

    def blocks_of(self, inode: Inode) -> Iterator[int]:
        """The blocks of a file in their order; 0 is a hole."""
        yield from inode.direct
        yield from self._pointers(inode.indirect)
        for block in self._pointers(inode.twice_indirect):
            yield from self._pointers(block)

    def contents(self, inode: Inode) -> bytes:
        blocks = self.blocks_of(inode)
        parts = []
        for _ in range(-(-inode.size // BLOCK)):
            block = next(blocks)
            parts.append(self.block(block) if block else bytes(BLOCK))
        return b"".join(parts)[: inode.size]

    def entries(self, inode: Inode) -> Iterator[tuple[str, int]]:
        for number, name in ENTRY.iter_unpack(self.contents(inode)):
            if number:
                yield name.partition(b"\0")[0].decode("latin-1"), number

    def files(self, number: int = ROOT, path: str = "") -> dict[str, bytes | None]:
        """Path -> contents; None for a directory."""
        found: dict[str, bytes | None] = {}
        for name, child in self.entries(self.inode(number)):
            if name == "..":
                continue
            inode = self.inode(child)
            if inode.type == DIRECTORY:
                found[f"{path}/{name}"] = None
                found |= self.files(child, f"{path}/{name}")
            else:
                found[f"{path}/{name}"] = self.contents(inode)
        return found

    # ---- checking ----

    def check(self) -> list[str]:
        """What is wrong, as in kernel/check.c. Replay the log first."""
        wrong: list[str] = []
        users: dict[int, int] = {}
        names: dict[int, int] = {ROOT: 1}
        inodes = {n: inode for n in range(1, self.inodes) if (inode := self.inode(n)).type}
        for number, inode in inodes.items():
            if inode.type not in (FILE, DIRECTORY) or inode.links > 1 or inode.size > MAX_SIZE:
                return [f"inode {number} makes no sense"]
            used = [*self.blocks_of(inode), inode.indirect, inode.twice_indirect]
            for block in [*used, *self._pointers(inode.twice_indirect)]:
                if block and not self.data_start <= block < self.blocks:
                    wrong.append(f"inode {number} uses block {block}")
                elif block and block in users:
                    wrong.append(f"block {block} belongs to inodes {users[block]} and {number}")
                users[block] = number
        wrong += [
            f"the bitmap is wrong about block {block}"
            for block in range(self.blocks)
            if self._is_used(block) != (block < self.data_start or block in users)
        ]
        for number, inode in inodes.items():
            if inode.type == DIRECTORY and inode.links:
                wrong += self._check_directory(number, inode, inodes, names)
        for number, inode in inodes.items():
            if names.get(number, 0) != inode.links:
                wrong.append(f"inode {number} has {names.get(number, 0)} names and {inode.links} links")
        if inodes.get(ROOT, Inode()).type != DIRECTORY:
            wrong.append("there is no root directory")
        return wrong

    def _check_directory(
        self, number: int, directory: Inode, inodes: dict[int, Inode], names: dict[int, int]
    ) -> list[str]:
        wrong = []
        listed = list(self.entries(directory))
        if not listed or listed[0][0] != "..":
            return [f"directory {number} does not begin with .."]
        for name, child in listed[1:]:
            names[child] = names.get(child, 0) + 1
            if child not in inodes:
                wrong.append(f"{name} in directory {number} names no file")
            elif inodes[child].type == DIRECTORY and next(self.entries(inodes[child]))[1] != number:
                wrong.append(f"directory {child} is in directory {number} and thinks otherwise")
            if not name or "/" in name or name in (".", ".."):
                wrong.append(f"directory {number} has a file named {name!r}")
        if len({name for name, _ in listed}) < len(listed):
            wrong.append(f"directory {number} has a name twice")
        return wrong

    # ---- making ----

    def _is_used(self, block: int) -> bool:
        return bool(self.data[self.bitmap_start * BLOCK + block // 8] >> block % 8 & 1)

    def _set_used(self, block: int) -> None:
        self.data[self.bitmap_start * BLOCK + block // 8] |= 1 << block % 8

    def _allocate(self) -> int:
        for block in range(self.data_start, self.blocks):
            if not self._is_used(block):
                self._set_used(block)
                return block
        raise DiskError("the image is full")

    def _store(self, number: int, inode: Inode) -> None:
        at = self.inode_start * BLOCK + number * INODE.size
        self.data[at : at + INODE.size] = inode.pack()

    def _append(self, number: int, data: bytes) -> None:
        inode = self.inode(number)
        contents = self.contents(inode) + data
        blocks = [b for b in self.blocks_of(inode) if b]
        while len(blocks) * BLOCK < len(contents):
            blocks.append(self._allocate())
        for i, block in enumerate(blocks):
            self.data[block * BLOCK : (block + 1) * BLOCK] = contents[i * BLOCK : (i + 1) * BLOCK].ljust(
                BLOCK, b"\0"
            )
        inode.size = len(contents)
        inode.direct = tuple((blocks + [0] * DIRECT)[:DIRECT])
        if len(blocks) > DIRECT:
            inode.indirect = self._numbers(inode.indirect, blocks[DIRECT : DIRECT + POINTERS])
        if rest := blocks[DIRECT + POINTERS :]:
            groups = [rest[i : i + POINTERS] for i in range(0, len(rest), POINTERS)]
            inode.twice_indirect = self._numbers(0, [self._numbers(0, group) for group in groups])
        self._store(number, inode)

    def _numbers(self, block: int, numbers: list[int]) -> int:
        block = block or self._allocate()
        self.data[block * BLOCK : (block + 1) * BLOCK] = struct.pack(
            f"<{POINTERS}I", *numbers, *[0] * (POINTERS - len(numbers))
        )
        return block

    def _create(self, directory: int, name: str, kind: int) -> int:
        number = next((n for n in range(ROOT + 1, self.inodes) if not self.inode(n).type), 0)
        encoded = name.encode("latin-1")
        if not number or not 0 < len(encoded) < 28:
            raise DiskError(f"no inode, or no place for the name {name!r}")
        self._store(number, Inode(kind, 1))
        if kind == DIRECTORY:
            self._append(number, ENTRY.pack(directory, b".."))
        self._append(directory, ENTRY.pack(number, encoded))
        return number

    def write_file(self, path: str, contents: bytes) -> None:
        """A new file, with all directories on the way."""
        *directories, name = path.strip("/").split("/")
        at = ROOT
        for directory in directories:
            known = dict(self.entries(self.inode(at)))
            at = known.get(directory) or self._create(at, directory, DIRECTORY)
        self._append(self._create(at, name, FILE), contents)


def main() -> int:
    parser = argparse.ArgumentParser(description="tern's file system in an image file")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="make an image")
    make.add_argument("image", type=Path)
    make.add_argument("--size", type=int, default=4096, metavar="KIB", help="at most 131072; default 4096")
    make.add_argument("--inodes", type=int, default=512, help="files and directories; default 512")
    make.add_argument("--log", type=int, default=65, metavar="BLOCKS", help="default 65")
    make.add_argument("files", nargs="*", metavar="PATH=FILE", help="files to put into it")
    for name, text in (("list", "list the files"), ("get", "print a file"), ("check", "say what is wrong")):
        command = commands.add_parser(name, help=text)
        command.add_argument("image", type=Path)
        if name == "get":
            command.add_argument("path")
    options = parser.parse_args()
    if options.command == "make":
        disk = Disk.make(options.size, options.inodes, options.log)
        for member in options.files:
            path, _, source = member.partition("=")
            disk.write_file(path, Path(source).read_bytes())
        options.image.write_bytes(disk.data)
        return 0
    disk = Disk(options.image.read_bytes())
    replayed = disk.replay()
    if options.command == "check":
        wrong = disk.check()
        print(f"{replayed} blocks from the log", *wrong, sep="\n")
        return 1 if wrong else 0
    files = disk.files()
    if options.command == "list":
        for path, data in sorted(files.items()):
            print(f"{'d' if data is None else '-'} {len(data or b''):8} {path}")
        return 0
    wanted = files.get("/" + options.path.strip("/"))
    if wanted is None:
        print(f"no file {options.path}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(wanted)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DiskError as error:
        sys.exit(f"ternfs.py: {error}")
