"""Where guests come from: an image, a file, another monitor. For the prompt and the command line."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, TextIO

import msgspec

from hypervisor.boot.entry import Entry
from hypervisor.errors import HostError, UsageError
from hypervisor.migration.report import Report
from hypervisor.paging.forms import DEFAULT_FORM
from hypervisor.state import files
from hypervisor.state.lazy import LazyFile
from hypervisor.state.model import MachineConfig
from hypervisor.state.stream import StreamReader, write_stream

if TYPE_CHECKING:
    from hypervisor.devices.image import DiskFile
    from hypervisor.machine import VirtualMachine
    from hypervisor.migration.destination import Listener
    from hypervisor.migration.replication.backup import Backup, Outcome
    from hypervisor.state.checkpoint import Checkpoints

Advance = Callable[[int, int], object]
"""Called with what is done, and all there is to do."""


def load(
    path: str | os.PathLike[str],
    technique: str | None = None,
    show: TextIO | None = None,
    disks: Sequence[DiskFile] = (),
    paging: str = DEFAULT_FORM,
) -> VirtualMachine:
    """As ``resume``, for one who wants no more than the guest."""
    return resume(path, technique, show, disks, paging)[0]


def resume(
    path: str | os.PathLike[str],
    technique: str | None = None,
    show: TextIO | None = None,
    disks: Sequence[DiskFile] = (),
    paging: str = DEFAULT_FORM,
    *,
    lazy: bool = False,
) -> tuple[VirtualMachine, Checkpoints]:
    """The guest in a file, stopped, and what can save its changes since. ``technique`` may be another than the
    one it was saved under, ``disks`` must hold what its disks held. ``lazy``: its RAM is read when it is needed, and
    what is wrong there found out then (an increment is always read at once).

    Raises:
        StateError, HostError: the file is no good, or one that it stands on; no machine was made.
    """
    if lazy:
        file = LazyFile(path)
        if file.parent is None:
            return _resume_lazily(file, technique, disks, paging)
    saved = files.load(path)

    from hypervisor.machine import VirtualMachine  # noqa: PLC0415 - opening the CPU's library takes time
    from hypervisor.state.checkpoint import Checkpoints  # noqa: PLC0415

    vm = VirtualMachine.create(under(saved.state.config, technique), disks, paging)
    try:
        with progress("loading", show) as advance:
            saved.fill(vm.ram, progress=advance)
        vm.restore(saved.state)
        checkpoints = Checkpoints(vm)
        checkpoints.loaded(
            saved.links[0].summary.digest, [link.path for link in saved.links], saved.state.disks
        )
    except BaseException:
        vm.close()
        raise
    return vm, checkpoints


def _resume_lazily(
    file: LazyFile, technique: str | None, disks: Sequence[DiskFile], paging: str
) -> tuple[VirtualMachine, Checkpoints]:
    from hypervisor.machine import VirtualMachine  # noqa: PLC0415 - opening the CPU's library takes time
    from hypervisor.state.checkpoint import Checkpoints  # noqa: PLC0415

    vm = VirtualMachine.create(under(file.state.config, technique), disks, paging)
    try:
        vm.absent.begin(file.bring_to(vm.absent), file)
        vm.restore(file.state)
        checkpoints = Checkpoints(vm)
        checkpoints.loaded(file.digest, [file.path], file.state.disks)
    except BaseException:
        vm.close()
        raise
    return vm, checkpoints


def receive(
    listener: Listener,
    technique: str | None = None,
    show: TextIO | None = None,
    disks: Sequence[DiskFile] = (),
    paging: str = DEFAULT_FORM,
    *,
    most: int | None = None,
    path: FilePath | None = None,
) -> VirtualMachine:
    """The guest that the next monitor to connect sends, stopped and ours.

    ``most`` limits its RAM, in bytes; ``path`` gets the report.
    """
    report = Report()
    with migration_progress("receiving", report, show, path) as advance:
        make = _maker(technique, disks, paging, most)
        vm = listener.receive(make, progress=advance, report=report)
    if path is not None:
        report.write(path)
    return vm


def follow(
    backup: Backup,
    technique: str | None = None,
    show: TextIO | None = None,
    disks: Sequence[DiskFile] = (),
    paging: str = DEFAULT_FORM,
    *,
    most: int | None = None,
) -> Outcome:
    """Be the backup of the guest that the next primary brings, until its end: see ``Backup.follow``."""
    with progress("synchronizing", show) as advance:
        return backup.follow(_maker(technique, disks, paging, most), progress=advance)


def _maker(
    technique: str | None, disks: Sequence[DiskFile], paging: str, most: int | None
) -> Callable[[MachineConfig], VirtualMachine]:
    """Makes the empty machine that a guest from elsewhere is restored into."""
    from hypervisor.machine import VirtualMachine  # noqa: PLC0415

    def make(config: MachineConfig) -> VirtualMachine:
        if most is not None and config.memory > most:
            raise UsageError(f"the guest has {config.memory} bytes of memory, at most {most} are given here")
        return VirtualMachine.create(under(config, technique), disks, paging)

    return make


def warm_up() -> None:
    """Do what the first machine of a process takes long for: finding and probing the CPU, learning what states
    look like. (50 ms; a guest that comes would wait for it, the last 10 of them while it stands still.)
    """
    from hypervisor.machine import MINIMUM_MEMORY, VirtualMachine  # noqa: PLC0415

    with VirtualMachine.create(MachineConfig(MINIMUM_MEMORY)) as vm, tempfile.TemporaryFile() as file:
        vm.enter_kernel(Entry(0))
        write_stream(vm.capture(), vm.ram, file.write, present=vm.present())
        file.seek(0)
        vm.restore(StreamReader(file.readinto).read_state())


def under(config: MachineConfig, technique: str | None) -> MachineConfig:
    """The same machine under another technique, which is no part of what a guest can see."""
    return config if technique is None else msgspec.structs.replace(config, technique=technique)


@contextlib.contextmanager
def progress(
    title: str, show: TextIO | None, remark: Callable[[], str] = lambda: ""
) -> Iterator[Advance | None]:
    """A progress bar over bytes on ``show``; None for no bar, and where there is no terminal there is none.

    ``remark`` is what stands behind it now.
    """
    if show is None or not show.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - 100 ms, and only terminals need it
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    columns = (
        TextColumn(title),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with Progress(*columns, console=Console(file=show)) as display:
        task = display.add_task(title, total=None, remark="")
        yield lambda done, total: display.update(task, completed=done, total=total, remark=remark())


@contextlib.contextmanager
def migration_progress(
    title: str, report: Report, show: TextIO | None, path: FilePath | None = None
) -> Iterator[Advance]:
    """A progress bar for a migration, and its report in a file, rewritten after each round and with each new
    status: in post-copy, some of them come when the bar is gone.

    Raises:
        HostError: the file cannot be written, before anything else has happened. Later that is no reason to
            stop a migration; its caller writes the finished report.
    """
    if path is not None:
        report.write(path)
    written: tuple[int, str] | None = None

    def remark() -> str:
        if not report.rounds:
            return ""
        last = report.rounds[-1]
        return (
            f"round {last.number}: {last.dirty_rate:,.0f} pages/s dirtied, "
            f"expected downtime {last.expected_downtime:.1f} ms"
        )

    with progress(title, show, remark) as advance:
        shown = True

        def tell(done: int, total: int) -> None:
            nonlocal written
            if advance is not None and shown:
                advance(done, total)
            if path is not None and (len(report.rounds), report.status) != written:
                written = len(report.rounds), report.status
                with contextlib.suppress(HostError):
                    report.write(path)

        try:
            yield tell
        finally:
            shown = False


def stderr_if_terminal() -> TextIO | None:
    """Where a command line shows progress, if anybody would see it."""
    return sys.stderr if sys.stderr.isatty() else None
