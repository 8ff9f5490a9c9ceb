"""The dirty log: which frames of guest RAM were stored to since it was last asked.

Nothing traps for it. The CPU sets the Dirty bit of the shadow entry through which it stores, as any x86
does (Intel SDM 3A, 4.8); the monitor notes its own stores, and those of devices, in a map beside guest
RAM. A harvest gathers both and makes all clean; the flush of the TLB that this takes is its only price,
and it is hidden. (Xen found dirty pages by write protection, one fault for each page and round: Clark et
al., "Live Migration of Virtual Machines", NSDI 2005, section 4.4. So did KVM before hardware logged them.)
"""

from __future__ import annotations

from hypervisor.ext.memory import PhysicalMemory
from hypervisor.paging.shadow import ShadowPaging


class DirtyLog:
    """The dirty log of one machine. To be used only while the guest is not inside the CPU."""

    def __init__(self, memory: PhysicalMemory, paging: ShadowPaging) -> None:
        self._memory = memory
        self._paging = paging
        self.active = False

    def start(self) -> None:
        """All frames are clean from now."""
        self.harvest()
        self.active = True

    def harvest(self) -> bytearray:
        """One byte for each frame: not 0 if it was stored to since the last harvest, or the start."""
        self._paging.collect_dirty()
        return self._memory.take_dirty()

    def stop(self) -> None:
        self.active = False
