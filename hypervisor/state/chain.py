"""Files that stand on one another: a whole machine, and what changed since, and what changed since then.

Each increment names its parent by the digest that the parent ends with. So a chain is right or it is refused:
a parent that was altered, or saved anew under the old name, has another digest, and nothing can stand on itself.
A parent lies in the folder of its child. It is looked for under the name that it had, and if it is not that
file, among all others there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from hypervisor.errors import HostError, StateError
from hypervisor.state.atomic import Fingerprint, fingerprint, reading
from hypervisor.state.model import DiskState, MachineState
from hypervisor.state.sections import DIGEST_SIZE, HEADER, MAGIC
from hypervisor.state.stream import Parent, Progress, StreamReader, Summary


class Link(NamedTuple):
    """One file of a chain, all of which was found good."""

    path: Path
    state: MachineState
    """As it is in the file: of an increment, disks have the changed clusters only."""
    parent: Parent | None
    summary: Summary
    seen: Fingerprint


def follow(path: str | os.PathLike[str]) -> list[Link]:
    """Check a file and all that it stands on; the newest, which is ``path``, comes first.

    Raises:
        StateError: a file is truncated, altered, missing, or does not belong to its child.
        HostError: one cannot be read.
    """
    links = [check(Path(path))]
    while (parent := links[-1].parent) is not None:
        child = links[-1]
        link = check(_find(child, parent))
        if link.summary.digest != parent.digest:
            # Its tail has the right digest, so this was checked already; but a file may change meanwhile.
            raise StateError(f"{link.path}: it has changed since it was looked at")
        if (link.state.config, link.state.identity) != (child.state.config, child.state.identity):
            raise StateError(f"{child.path}: it is of another machine than {link.path}, which it stands on")
        links.append(link)
    return links


def check(path: Path) -> Link:
    """Read one file through."""
    with reading(path) as descriptor:
        seen = fingerprint(descriptor)
        state, parent, summary = _read(path, descriptor, None, None)
    return Link(path, state, parent, summary, seen)


def refill(link: Link, ram: memoryview, progress: Progress | None) -> None:
    """Write a file's pages into RAM, which holds what its parent says.

    Raises:
        StateError: it is not the file any more that was checked.
    """
    with reading(link.path) as descriptor:
        if fingerprint(descriptor) != link.seen:
            raise StateError(f"{link.path}: it has changed since it was checked")
        _read(link.path, descriptor, ram, progress)


def whole(links: list[Link]) -> MachineState:
    """The state at the newest of the links, with all of its disks."""
    newest = links[0].state
    disks = [
        DiskState(
            disk.base,
            {n: data for link in reversed(links) for n, data in link.state.disks[i].clusters.items()},
        )
        for i, disk in enumerate(newest.disks)
    ]
    return msgspec.structs.replace(newest, disks=tuple(disks))


def _read(
    path: Path, descriptor: int, ram: memoryview | None, progress: Progress | None
) -> tuple[MachineState, Parent | None, Summary]:
    def readinto(view: memoryview) -> int:
        return os.readv(descriptor, [view])

    try:
        reader = StreamReader(readinto)
        state = reader.read_state()
        summary = reader.read_ram(ram, progress=progress)
    except StateError as error:
        raise StateError(f"{path}: {error}") from None
    if os.read(descriptor, 1):
        raise StateError(f"{path}: there is more after the end of the stream")
    return state, reader.parent, summary


def _find(child: Link, parent: Parent) -> Path:
    """The file that a child stands on."""
    folder = child.path.parent
    named = folder / parent.name
    for candidate in (named, *_others(folder)):
        if _last_digest(candidate) == parent.digest:
            return candidate
    wanted = f"{parent.name} (digest {parent.digest.hex()[:16]})"
    raise StateError(
        f"{child.path}: it holds what changed since {wanted}, "
        + (f"but {named} is another file" if named.exists() else "which is missing beside it")
    )


def _others(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from sorted(folder.iterdir())


def _last_digest(path: Path) -> bytes | None:
    """The digest that a file ends with, without checking it; None if it is no saved machine."""
    with contextlib.suppress(HostError, StateError), reading(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > HEADER.size + DIGEST_SIZE and os.pread(descriptor, len(MAGIC), 0) == MAGIC:
            return os.pread(descriptor, DIGEST_SIZE, size - DIGEST_SIZE)
    return None
