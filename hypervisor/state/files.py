"""A machine in a file.

Saving is atomic: the new file is written beside the old one, reaches the disk, and only then takes
its name. A full disk or a crash leaves the old file as it was. Loading checks the whole file, and all files
that it stands on (see ``chain``), before it gives anything away, so a caller may throw its running guest away
when ``load`` has returned. (A machine that runs meanwhile is saved by ``checkpoint``.)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, Protocol

from hypervisor.errors import HostError
from hypervisor.state import chain
from hypervisor.state.atomic import replacing, write_all
from hypervisor.state.model import MachineState
from hypervisor.state.stream import Changes, Copy, Progress, Summary, write_stream


class Capturable(Protocol):
    """What can be saved: a virtual machine that is stopped."""

    @property
    def ram(self) -> memoryview: ...

    def present(self) -> bytes: ...

    def capture(self) -> MachineState: ...


class SavedMachine(NamedTuple):
    """What ``load`` found."""

    state: MachineState
    links: list[chain.Link]
    """The files, the newest first."""

    def fill(self, ram: memoryview, *, progress: Progress | None = None) -> None:
        """Write RAM as it was into ``ram``, which must be as long as the configuration says and is overwritten.

        Raises:
            StateError: a file is another one now than when it was checked.
        """
        for link in reversed(self.links):
            chain.refill(link, ram, progress)


def save(machine: Capturable, path: str | os.PathLike[str], *, progress: Progress | None = None) -> Summary:
    """Write a stopped machine to a file that only its owner may read (it holds a guest's memory).

    Raises:
        HostError: the file cannot be written. What was there under its name is unchanged.
    """
    return save_state(machine.capture(), machine.ram, path, present=machine.present(), progress=progress)


def save_state(
    state: MachineState,
    ram: memoryview,
    path: str | os.PathLike[str],
    *,
    present: bytes | None = None,
    changes: Changes | None = None,
    copy: Copy | None = None,
    progress: Progress | None = None,
) -> Summary:
    """As ``save``, for a state and the RAM that belongs to it, such as those of a snapshot, or for an
    increment: see ``write_stream``.
    """
    with replacing(Path(path)) as descriptor:
        return write_stream(
            state,
            ram,
            lambda data: write_all(descriptor, data),
            present=present,
            changes=changes,
            copy=copy,
            progress=progress,
        )


def load(path: str | os.PathLike[str]) -> SavedMachine:
    """Check a file, and all that it stands on; give back the machine in it.

    Raises:
        StateError: a file is truncated, altered, of another version, missing, or no saved machine at all.
        HostError: one cannot be read.
    """
    links = chain.follow(path)
    return SavedMachine(chain.whole(links), links)


def squash(
    path: str | os.PathLike[str], target: str | os.PathLike[str], *, progress: Progress | None = None
) -> Summary:
    """Write the machine in a file, and in all files that it stands on, as one file that needs no others.

    It holds the same bytes as if the machine had been saved whole. ``target`` may be one of those files.

    Raises:
        StateError, HostError: as ``load`` and ``save``.
    """
    saved = load(path)
    try:
        ram = memoryview(bytearray(saved.state.config.memory))
    except MemoryError:
        raise HostError(f"no memory for the {saved.state.config.memory >> 20} MiB of this machine") from None
    saved.fill(ram, progress=progress)
    return save_state(saved.state, ram, target, progress=progress)
