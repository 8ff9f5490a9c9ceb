"""A disk image: a raw file on the host that holds a disk's sectors in order, and nothing else.

By default it is only read (see ``disk`` for where the guest's changes go then). A *persistent* image
takes the guest's writes itself.

**One writer.** While a machine is owned by this monitor, its images are locked (flock(2)): a persistent
one for us alone, the others together with everyone who also only reads. So no two monitors write the
same disk, and nobody writes a disk that others read. The lock goes with the guest: a source lets go of
it when it stops the guest to send it, the destination, which has opened the same file on storage that
both see, takes it before it says Prepared, and a source that gets its guest back takes it again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hypervisor.errors import HostError, UsageError

SECTOR = 512
CHUNK = 64 << 10
"""Bytes that are compared and digested together."""
SIZE_MAX = 2 << 40
"""A longer file is taken for a mistake."""


class DiskFile(NamedTuple):
    """What a user says about a disk."""

    path: Path
    persistent: bool = False
    """The guest's writes go to the file, instead of into an overlay that goes with the machine."""


def parse_disk(text: str) -> DiskFile:
    """``FILE`` or ``FILE,persist``."""
    path = text.removesuffix(",persist")
    if not path:
        raise UsageError("no file is named: it must be FILE or FILE,persist")
    return DiskFile(Path(path), persistent=path != text)


def as_disk(file: DiskFile | Path | str) -> DiskFile:
    """What a user says about a disk, in any of its forms."""
    if isinstance(file, DiskFile):
        return file
    return parse_disk(file) if isinstance(file, str) else DiskFile(file)


class Image:
    """An open image. Reading and writing raise OSError, everything else HostError."""

    def __init__(self, file: DiskFile) -> None:
        self.path = file.path
        self.persistent = file.persistent
        self._locked = False
        flags = os.O_RDWR if file.persistent else os.O_RDONLY
        try:
            # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
            self._descriptor = os.open(self.path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise self._refusal(error) from None
        try:
            self.sectors = self._size() // SECTOR
            self._opened = self._fingerprint()
        except BaseException:
            self.close()
            raise

    def _refusal(self, why: object) -> HostError:
        text = why.strerror if isinstance(why, OSError) else None
        return HostError(f"disk {self.path}: {text or why}")

    def _size(self) -> int:
        kind = os.fstat(self._descriptor).st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISBLK(kind):
            raise self._refusal(
                "Is a directory" if stat.S_ISDIR(kind) else "neither a file nor a block device"
            )
        try:
            size = os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError as error:
            raise self._refusal(error) from None
        if not size:
            raise self._refusal("it is empty: a disk has at least one sector")
        if size % SECTOR:
            raise self._refusal(
                f"{size} bytes are no whole number of {SECTOR}-byte sectors: is it truncated?"
            )
        if size > SIZE_MAX:
            raise self._refusal(f"{size} bytes: disks of more than {SIZE_MAX >> 40} TiB are not supported")
        return size

    def _fingerprint(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns

    @property
    def altered(self) -> bool:
        """Has somebody else written to an image that we only read?"""
        return not self.persistent and self._fingerprint() != self._opened

    def close(self) -> None:
        """Let go of the file; harmless when done twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        self._locked = False

    def hold(self) -> None:
        """Lock the file, as the monitor that owns the guest."""
        if self._locked:
            return
        kind = fcntl.LOCK_EX if self.persistent else fcntl.LOCK_SH
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            what = "in use by another machine" if self.persistent else "another machine is writing to it"
            raise self._refusal(what) from None
        except OSError as error:
            # Some file systems know no locks: better to run without than not at all.
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise self._refusal(error) from None
        self._locked = True

    def release(self) -> None:
        """Unlock the file, whatever was written to it having reached the storage."""
        if not self._locked:
            return
        if self.persistent:
            with contextlib.suppress(OSError):
                self.flush()
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._locked = False

    def read(self, sector: int, count: int) -> bytes:
        """Raises OSError; a file that has become shorter meanwhile is an I/O error."""
        size, offset = count * SECTOR, sector * SECTOR
        parts = []
        while size:
            part = os.pread(self._descriptor, size, offset)
            if not part:
                raise OSError(errno.EIO, "the file is shorter than it was")
            parts.append(part)
            size -= len(part)
            offset += len(part)
        return b"".join(parts)

    def write(self, sector: int, data: bytes) -> None:
        """Raises OSError."""
        offset = sector * SECTOR
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view = view[written:]
            offset += written

    def flush(self) -> None:
        """What was written survives a crash of the host after this. Raises OSError."""
        os.fdatasync(self._descriptor)

    def chunks(self) -> Iterator[int]:
        """The numbers of the chunks that may hold anything but zeros: holes are left out. Raises OSError."""
        end, at = self.sectors * SECTOR, 0
        while at < end:
            try:
                at = os.lseek(self._descriptor, at, os.SEEK_DATA)
                hole = os.lseek(self._descriptor, at, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # nothing but a hole up to the end
                if error.errno != errno.EINVAL:
                    raise
                hole = end  # this file cannot tell
            first, last = at // CHUNK, (min(hole, end) - 1) // CHUNK
            yield from range(first, last + 1)
            at = (last + 1) * CHUNK
