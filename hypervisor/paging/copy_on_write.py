"""Copy on write: what RAM holds at one moment, for whoever saves it while the guest runs on.

At that moment every frame to be saved is *protected*: no shadow entry allows a store to it. The guest's
first store to such a frame faults; its contents are copied away, the entry is filled, and the store runs
again. That fault is as hidden as any other of the shadow's: the guest executes the same instructions, at the
same virtual times. Who saves copies frames too, ahead of the guest, and so protects it from further faults.
The monitor's own stores on the guest's behalf look first, in ``PhysicalMemory``.

This is what fork(2) does for a process, and what Redis saves itself with; QEMU's background-snapshot protects
pages with userfaultfd.
"""

from __future__ import annotations

import mmap

from hypervisor.errors import HostError, UsageError
from hypervisor.ext.memory import PhysicalMemory
from hypervisor.paging.base import Paging

_PAGE = 4096


class CopyOnWrite:
    """A view of one machine's RAM as it was when this was made, which must be while the guest stands still.

    ``frames`` has a byte for each frame; only those where it is not 0 are in the view. A machine can have one
    of these at a time, and none while frames are absent. The memory it takes is that of the frames that the guest stored to and that were not
    yet forgotten here.

    Raises:
        UsageError: there is one already.
        HostError: the host has not got the memory.
    """

    def __init__(self, memory: PhysicalMemory, paging: Paging, frames: bytes | bytearray) -> None:
        try:
            self._kept = mmap.mmap(-1, memory.ram_size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise HostError(f"no memory for what the guest overwrites meanwhile: {error.strerror}") from None
        try:
            memory.protect(frames, self._kept)
        except ValueError as error:
            self._kept.close()
            raise UsageError(f"the guest's memory cannot be protected: {error}") from None
        paging.forbid_stores(frames)
        self._memory = memory

    def read(self, first: int, stop: int) -> None:
        """See to it that ``view`` has the frames from ``first`` to before ``stop``; from any thread."""
        self._memory.keep_frames(first, stop - first)

    @property
    def view(self) -> memoryview:
        """As long as RAM; right where ``read`` was called."""
        return memoryview(self._kept)

    def forget(self, first: int, stop: int) -> None:
        """These frames of the view are not needed any more."""
        self._kept.madvise(mmap.MADV_DONTNEED, first * _PAGE, (stop - first) * _PAGE)

    def put_back(self) -> None:
        """RAM holds again what is in the view, which must have all frames. The guest stands still."""
        self._memory.put_back()

    def end(self) -> None:
        """The guest may store to all frames as it likes; the view is gone."""
        self._memory.unprotect()
