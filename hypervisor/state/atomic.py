"""Files that are there whole or not at all, and that are what they were when they were looked at."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypervisor.errors import HostError, StateError
from hypervisor.state.sections import Readable

Fingerprint = tuple[int, int, int, int]


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[int]:
    """The descriptor of a regular file, to be read.

    Raises:
        StateError: it is no regular file.
        HostError: it cannot be read.
    """
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


def fingerprint(descriptor: int) -> Fingerprint:
    """Differs for another file, and for one that was written to."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[int]:
    """The descriptor of a new file that takes the place of ``path`` when the block ends well, and vanishes
    otherwise. Nobody but its owner may read it.

    Raises:
        HostError: it cannot be written, or something is there that is no regular file.
    """
    try:
        target = Path(
            os.path.realpath(path)
        )  # through a symbolic link: what it points to is replaced, not the link
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
    except OSError as error:
        raise HostError(f"cannot save to {path}: {error.strerror or error}") from None


def _sync_directory(directory: Path) -> None:
    """Make the new name itself survive a crash of the host."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: Readable) -> None:
    """Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
