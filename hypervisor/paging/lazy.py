"""The lazy form of shadow paging: the shadow is a TLB, and the guest says when to flush it.

There is one set of shadow tables, for the current address space. Loading CR3 empties it, INVLPG one
entry, and until then a translation that was filled stays, whatever the guest does to its tables; the
manuals allow a processor just that (Intel SDM 3A, 4.10). It is the simplest form that is correct for a
guest that flushes as it must. A guest that does not can tell when an entry happened to be filled, so for
such a guest this form is not exact. Every context switch pays with a fault for each group of pages.
"""

from __future__ import annotations

from hypervisor.ext.cpu import POOL, Cpu
from hypervisor.ext.memory import MONITOR_SIZE, PhysicalMemory
from hypervisor.paging.entries import LINK, PRESENT
from hypervisor.paging.physical import RAM_BASE, PhysicalMap
from hypervisor.paging.shadow import ShadowPaging


class LazyShadow(ShadowPaging):
    """The shadow of the guest's current address space."""

    def __init__(self, memory: PhysicalMemory, cpu: Cpu, physical: PhysicalMap) -> None:
        super().__init__(memory, cpu, physical)
        self.root = POOL
        self.directories = [POOL + 0x1000 * (i + 1) for i in range(4)]
        self.free = list(range(MONITOR_SIZE - 0x1000, POOL + 0x5000 - 1, -0x1000))
        self.tables: dict[int, int] = {}
        """Shadow page tables in use: number of the 2 MiB region -> host-physical frame."""
        self.large: set[int] = set()
        """4 MiB regions of which something was filled from a 4 MiB guest page."""
        for frame in (self.root, *self.directories):
            memory.clear_frame(frame)
        for i, frame in enumerate(self.directories):
            memory.store64(self.root + 8 * i, frame | PRESENT)
        cpu.load_root(self.root)

    def set_control(self, cr0: int, cr3: int, cr4: int) -> None:
        """The guest loaded a control register: forget every translation, as its TLB would."""
        self.guest.set_control(cr0, cr3, cr4)
        self.drop()

    def drop(self) -> None:
        for region, frame in self.tables.items():
            self.memory.collect_dirty(frame)
            self.memory.store64(self.directories[region >> 9] + (region & 511) * 8, 0)
            self.free.append(frame)
        self.tables.clear()
        self.large.clear()
        self.cpu.flush_tlb()

    def invalidate(self, gva: int) -> None:
        """INVLPG: forget the page (of whatever size) that holds ``gva``."""
        if gva >> 22 in self.large:
            self.large.discard(gva >> 22)
            for region in (gva >> 21 & ~1, gva >> 21 | 1):
                if region in self.tables:
                    self.memory.collect_dirty(self.tables[region])
                    self.memory.clear_frame(self.tables[region])
        elif gva >> 21 in self.tables:
            self.put(self.slot(gva, False), 0)
        else:
            return
        self.cpu.flush_tlb()

    def slot(self, gva: int, large: bool) -> int:
        if large:
            self.large.add(gva >> 22)
        region = gva >> 21
        table = self.tables.get(region)
        if table is None:
            if not self.free:
                self.drop()
            table = self.free.pop()
            self.memory.clear_frame(table)
            self.memory.store64(self.directories[region >> 9] + (region & 511) * 8, table | LINK)
            self.tables[region] = table
        return table + (gva >> 12 & 511) * 8

    def put(self, slot: int, entry: int) -> None:
        self.memory.note_dirty(slot)
        self.memory.store64(slot, entry)

    def rewrite(self, frame: int, clear: int, bits: int) -> int:
        return self.memory.rewrite_mappings(self.root, RAM_BASE + (frame << 12), clear, bits)

    def forbid_stores(self, frames: bytes | bytearray) -> None:
        # There is no map from frames to entries: forget all of them.
        self.drop()

    def release(self, frame: int, eip: int) -> bool:
        """Never asked: this form traces no frames."""
        return True

    def follows(self, frame: int) -> bool:
        """Never asked."""
        return False

    def store_entry(self, hpa: int, value: int) -> None:
        """Never asked."""

    def retrace(self, frame: int) -> None:
        """Never asked."""

    def collect_dirty(self) -> None:
        for frame in self.tables.values():
            self.memory.collect_dirty(frame)
        self.cpu.flush_tlb()

    def tables_in_use(self) -> list[int]:
        return list(self.tables.values())
