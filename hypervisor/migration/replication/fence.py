"""The fence: who may run a replicated guest when its two monitors do not hear each other.

Silence does not tell whether the peer is dead or the link. If both went on then, the guest would run twice; if
both waited, a dead primary would take its guest with it. Between two parties and a link that may break there is
no third way (Gray's two generals; Gilbert and Lynch, 2002). So a third party decides: a file on storage that both
see, with a lock that the kernel gives back when its holder dies, however it dies. The file holds the name of the
*pairing* of primary and backup, and how it stands:

    byte 0        "o" offered, "v" valid, "-" struck out
    bytes 1-32    the pairing's name

Two rules, and no clock in them:

    The primary holds the lock (flock(2)) for as long as it may run the guest, and goes on without its backup only
    after it has struck the pairing out.

    The backup takes over only after it has got the lock, and then still finds its pairing valid.

While the primary holds the lock the backup cannot get it; once the backup has it, the primary that held it is
gone. And a primary that went on alone, and died later, has struck out a backup whose copy is outdated.

What stays open: if the storage itself is lost to a monitor, or the primary hangs with the lock in its hands, the
guest stands still until somebody sees to that. (An operator can: killing the primary gives the lock free.) On a
network file system the lock is as good, and as quick to come free, as that file system's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
from pathlib import Path
from typing import Final, Literal, Self

from hypervisor.errors import HostError, MigrationError

Standing = Literal["offered", "valid", "struck out"]

_STANDINGS: Final[dict[bytes, Standing]] = {b"o": "offered", b"v": "valid", b"-": "struck out"}
_LENGTH: Final = 33


def default_path(identity: str) -> Path:
    """Where the fence of a guest is if nobody says so: seen by all monitors of this user on this host."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(base, "hv") if base else Path(tempfile.gettempdir(), f"hv-{os.getuid()}")
    return folder / f"fence-{identity}"


class Fence:
    """One monitor's view of a fence. A context: the lock is given back at its end."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it if it is not there.

        Raises:
            HostError: it cannot be opened, or is no regular file.
        """
        self.path = path
        try:
            _make_folder(path.parent)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise HostError(f"fence {path}: {error.strerror or error}") from None
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            os.close(self._descriptor)
            raise HostError(f"fence {path}: not a regular file")
        self._pairing = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lock(self) -> bool:
        """Try to get the lock; False if another monitor holds it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EINTR:
                return False
            raise HostError(f"fence {self.path}: cannot be locked: {error.strerror}") from None
        return True

    def offer(self, pairing: str) -> None:
        """The primary, with the lock, names the pairing."""
        self._pairing = pairing
        self._write(b"o" + pairing.encode())

    def validate(self) -> None:
        """The primary: the backup has all that it needs. From now on it may take over."""
        self._write(b"v")

    def strike_out(self) -> None:
        """With the lock: the backup must not take over. Raises HostError, and then it still may."""
        self._write(b"-")

    def standing(self, pairing: str) -> Standing:
        """How this pairing stands. What is not in the file, or another one's, is struck out."""
        try:
            held = os.pread(self._descriptor, _LENGTH, 0)
        except OSError as error:
            raise HostError(f"fence {self.path}: {error.strerror}") from None
        return _STANDINGS.get(held[:1], "struck out") if held[1:] == pairing.encode() else "struck out"

    @property
    def taken(self) -> bool:
        """Is some pairing valid, whose primary is gone?"""
        return os.pread(self._descriptor, 1, 0) == b"v"

    def remove(self) -> None:
        """With the lock, when nobody needs the fence any more."""
        with contextlib.suppress(OSError):
            if os.path.samestat(self.path.stat(follow_symlinks=False), os.fstat(self._descriptor)):
                self.path.unlink()
        self.close()

    def close(self) -> None:
        """Give the lock back. May be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _write(self, data: bytes) -> None:
        """One byte, or all of them while no backup looks yet: no one ever reads half of it."""
        try:
            os.pwrite(self._descriptor, data, 0)
            os.fsync(self._descriptor)
        except OSError as error:
            raise HostError(f"fence {self.path}: {error.strerror}") from None


def _make_folder(folder: Path) -> None:
    """The default folder, for us alone. Raises OSError."""
    if folder.name == "hv" or folder.name == f"hv-{os.getuid()}":
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat(follow_symlinks=False).st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "its folder belongs to somebody else")


def hold(path: Path) -> Fence:
    """The fence of a guest that is ours, locked.

    Raises:
        HostError: it cannot be opened or locked.
        MigrationError: another monitor holds it, or may get it at any moment.
    """
    fence = Fence(path)
    trouble = ""
    if not fence.lock():
        trouble = "another monitor holds it"
    elif fence.taken:
        trouble = "its guest has a backup that may take over; remove the file if you know better"
    if trouble:
        fence.close()
        raise MigrationError(f"fence {path}: {trouble}")
    return fence
