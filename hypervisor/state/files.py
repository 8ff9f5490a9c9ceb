"""A machine in a file.

Saving is atomic: the new file is written beside the old one, reaches the disk, and only then takes
its name. A full disk or a crash leaves the old file as it was. Loading checks the whole file before
it gives anything away, so a caller may throw its running guest away when ``load`` has returned.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from hypervisor.errors import HostError, StateError
from hypervisor.state.model import MachineState
from hypervisor.state.sections import Readable
from hypervisor.state.stream import Progress, StreamReader, Summary, write_stream


class Capturable(Protocol):
    """What can be saved: a virtual machine that is stopped."""

    @property
    def ram(self) -> memoryview: ...

    def present(self) -> bytes: ...

    def capture(self) -> MachineState: ...


class Fill(Protocol):
    """Writes RAM as it was into ``ram``, which must be as long as the configuration says."""

    def __call__(self, ram: memoryview, *, progress: Progress | None = None) -> None: ...


class SavedMachine(NamedTuple):
    """What ``load`` found."""

    state: MachineState
    fill: Fill


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
    progress: Progress | None = None,
) -> Summary:
    """As ``save``, for a state and the RAM that belongs to it, such as those of a snapshot."""
    try:
        with _replacement(Path(path)) as descriptor:
            return write_stream(
                state, ram, lambda data: _write_all(descriptor, data), present=present, progress=progress
            )
    except OSError as error:
        raise HostError(f"cannot save to {path}: {error.strerror or error}") from None


def load(path: str | os.PathLike[str]) -> SavedMachine:
    """Check a whole file; give back its state, and a function that fills RAM from it.

    ``fill`` reads the file again and raises :class:`StateError` if it is another one by then.

    Raises:
        StateError: the file is truncated, altered, of another version, or no saved machine at all.
        HostError: it cannot be read.
    """
    with _reading(path) as descriptor:
        seen = _fingerprint(descriptor)
        state, _ = _read(path, descriptor, None, None)

    def fill(ram: memoryview, *, progress: Progress | None = None) -> None:
        with _reading(path) as descriptor:
            if _fingerprint(descriptor) != seen:
                raise StateError(f"{path}: the file was changed since it was checked")
            _read(path, descriptor, ram, progress)

    return SavedMachine(state, fill)


def _read(
    path: str | os.PathLike[str], descriptor: int, ram: memoryview | None, progress: Progress | None
) -> tuple[MachineState, Summary]:
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
    return state, summary


@contextlib.contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[int]:
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StateError(f"{path}: not a regular file")
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostError(f"cannot load {path}: {error.strerror or error}") from None


def _fingerprint(descriptor: int) -> tuple[int, int, int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _replacement(path: Path) -> Iterator[int]:
    """A new file that takes the place of ``path`` when the block ends well, and vanishes otherwise."""
    target = path.resolve()  # through a symbolic link: what it points to is replaced, not the link
    if target.exists() and not target.is_file():
        # Renaming over /dev/null would replace the device.
        raise HostError(f"cannot save to {path}: not a regular file")
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:64]}.", suffix=".tmp", dir=target.parent)
    temporary = Path(name)
    try:
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_directory(target.parent)


def _sync_directory(directory: Path) -> None:
    """Make the new name itself survive a crash of the host."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: Readable) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
