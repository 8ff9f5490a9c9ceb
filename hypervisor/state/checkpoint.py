"""Saving a machine that runs on meanwhile, whole or only what has changed since it was last saved.

The guest stands still only while its registers and devices are captured, and its RAM is put under copy on
write: what is saved is the machine at that instruction, whatever it does while the file is written. From the
first time on a dirty log is kept. So the next file may be an *increment*: the pages and the clusters of disks
that were written to since, and the digest of the file before, its parent (see ``chain``).

A save that fails leaves the guest, the old file and what the next increment will hold as they were.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from hypervisor.devices.disk import Disks
from hypervisor.errors import UsageError
from hypervisor.ext.memory import PhysicalMemory
from hypervisor.marks import either
from hypervisor.paging.absent import AbsentFrames
from hypervisor.paging.base import Paging
from hypervisor.paging.copy_on_write import CopyOnWrite
from hypervisor.paging.dirty import DirtyLog
from hypervisor.state.codec import PAGE_SIZE
from hypervisor.state.files import save_state
from hypervisor.state.model import DiskState, MachineState
from hypervisor.state.stream import Changes, Progress, Summary

T = TypeVar("T")


class Machine(Protocol):
    """What saving needs of a virtual machine."""

    @property
    def dirty(self) -> DirtyLog: ...
    @property
    def memory(self) -> PhysicalMemory: ...
    @property
    def paging(self) -> Paging: ...
    @property
    def disks(self) -> Disks: ...
    @property
    def absent(self) -> AbsentFrames: ...
    def present(self) -> bytes: ...
    def visit(self, work: Callable[[], T], /) -> T: ...
    def capture(self) -> MachineState: ...


class Saved(NamedTuple):
    """What ``save`` did."""

    summary: Summary
    instructions: int
    """Where the guest was."""
    pause: float
    """Seconds that it stood still."""


class _Moment(NamedTuple):
    """What the pause has given."""

    state: MachineState
    present: bytes | None
    """For a whole file: frames that may hold anything but zeros."""
    written: bytearray
    """Frames stored to since the last file."""
    copy: CopyOnWrite
    pause: float


class _Base(NamedTuple):
    """The file that the next increment stands on."""

    digest: bytes
    path: Path
    disks: tuple[DiskState, ...]


class Checkpoints:
    """The files of one machine."""

    def __init__(self, vm: Machine) -> None:
        self._vm = vm
        self._log = vm.dirty.another()
        self._written = bytearray(vm.memory.ram_size // PAGE_SIZE)
        """Frames stored to since the last file, as far as the log was harvested."""
        self._base: _Base | None = None
        self._chain: set[Path] = set()
        """Files that the next increment needs."""

    def loaded(self, digest: bytes, files: Sequence[Path], disks: tuple[DiskState, ...]) -> None:
        """The machine was just made from these files, the newest first, and has not run: increments may stand on
        them. ``digest`` names the first; ``disks`` are as they all have it.
        """
        self._vm.visit(self._log.start)
        places = [Path(os.path.realpath(path)) for path in files]
        self._chain = set(places)
        self._base = _Base(digest, places[0], disks)

    def save(
        self, path: str | os.PathLike[str], *, increment: bool = False, progress: Progress | None = None
    ) -> Saved:
        """Write the machine as it is now; from any thread but its own. It goes on meanwhile.

        Raises:
            UsageError: there is no file yet that an increment could stand on, or ``path`` is one that it needs.
            HostError: the file cannot be written. What was there under its name is unchanged.
        """
        target = Path(os.path.realpath(path))
        base = self._base if increment else None
        if increment:
            if base is None:
                raise UsageError("nothing was saved or loaded before: an increment has nothing to stand on")
            if target in self._chain:
                raise UsageError(f"{path}: an increment would stand on this very file, and needs it")
        self._vm.absent.complete()
        self._vm.disks.look()
        moment = self._vm.visit(lambda: self._pause(whole=base is None))
        try:
            state, changes = moment.state, None
            if base is not None:
                state = msgspec.structs.replace(state, disks=_changed(base.disks, state.disks))
                changes = Changes(base.digest, base.path.name, moment.written)
            summary = save_state(
                state,
                moment.copy.view,
                path,
                present=moment.present,
                changes=changes,
                copy=moment.copy,
                progress=progress,
            )
        except BaseException:
            self._written = either(self._written, moment.written)
            raise
        finally:
            moment.copy.end()
        self._base = _Base(summary.digest, target, moment.state.disks)
        self._chain = {target} if base is None else self._chain | {target}
        return Saved(summary, state.clock.instructions, moment.pause)

    def _pause(self, *, whole: bool) -> _Moment:
        """The guest stands still: take what must be taken of this very moment."""
        began = time.perf_counter()
        vm = self._vm
        state = vm.capture()
        if self._log.active:
            self._written = either(self._written, self._log.harvest())
        else:
            self._log.start()
        present = vm.present() if whole else None
        copy = CopyOnWrite(vm.memory, vm.paging, self._written if present is None else present)
        written, self._written = self._written, bytearray(len(self._written))
        return _Moment(state, present, written, copy, time.perf_counter() - began)


def _changed(before: tuple[DiskState, ...], now: tuple[DiskState, ...]) -> tuple[DiskState, ...]:
    """Disks with only those clusters that were written meanwhile."""
    changed = []
    for old, new in zip(before, now, strict=True):
        if not old.clusters.keys() <= new.clusters.keys():
            raise UsageError("the guest has gone back in time since it was saved: save all of it")
        # A cluster that is written to is a new object, always: see `devices.disk`.
        clusters = {n: data for n, data in new.clusters.items() if old.clusters.get(n) is not data}
        changed.append(DiskState(new.base, clusters))
    return tuple(changed)
