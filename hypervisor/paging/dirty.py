"""The dirty log: which frames of guest RAM were stored to since it was last asked.

Nothing traps for it. The CPU sets the Dirty bit of the shadow entry through which it stores, as any x86
does (Intel SDM 3A, 4.8); the monitor notes its own stores, and those of devices, in a map beside guest
RAM. A harvest gathers both and makes all clean; the flush of the TLB that this takes is its only price,
and it is hidden. (Xen found dirty pages by write protection, one fault for each page and round: Clark et
al., "Live Migration of Virtual Machines", NSDI 2005, section 4.4. So did KVM before hardware logged them.)

Several may keep a log of the same machine at the same time, each in a pace of its own: what one harvests, the
others are told.
"""

from __future__ import annotations

from typing import Self

from hypervisor.ext.memory import PhysicalMemory
from hypervisor.marks import either
from hypervisor.paging.base import Paging


class DirtyLog:
    """A dirty log of one machine. To be used only while the guest is not inside the CPU."""

    def __init__(self, memory: PhysicalMemory, paging: Paging) -> None:
        self._memory = memory
        self._paging = paging
        self._started: list[DirtyLog] = []
        """All logs of this machine that are active; they share the list."""
        self._written: bytearray | None = None
        """What was harvested by others since our last harvest; None: nothing."""

    def another(self) -> Self:
        """A further log of the same machine, not yet started."""
        log = type(self)(self._memory, self._paging)
        log._started = self._started
        return log

    @property
    def active(self) -> bool:
        return self in self._started

    def start(self) -> None:
        """All frames are clean from now."""
        self._gather()
        self._written = None
        if not self.active:
            self._started.append(self)

    def harvest(self) -> bytearray:
        """One byte for each frame: not 0 if it was stored to since the last harvest, or the start."""
        if not self.active:
            raise ValueError("the log was not started")
        self._gather()
        written, self._written = self._written, None
        assert written is not None  # by _gather
        return written

    def stop(self) -> None:
        if self.active:
            self._started.remove(self)
        self._written = None

    def _gather(self) -> None:
        """Tell all active logs what was stored to since anyone asked."""
        self._paging.collect_dirty()
        new = self._memory.take_dirty()
        for log in self._started:
            log._written = bytearray(new) if log._written is None else either(log._written, new)
