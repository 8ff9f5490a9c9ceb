"""Nested paging: the CPU walks the guest's own tables, and the addresses in them through a second set.

That is the hardware's way out of shadow tables (AMD's "rapid virtualization indexing", 2008, APM 2, 15.25; Intel's EPT;
IBM's SIE had it in 1980, see ``hv analyze --sie``). The guest's CR3, CR0.PG and CR0.WP are the real ones. It
changes its tables, and switches between them, without an exit; a page fault is always its own. What is left to the
monitor is one set of *nested* tables from guest-physical to host-physical addresses, the same for all of the guest's
address spaces, in which an entry is filled once. The price on real hardware is the walk: each of its steps is
itself a translation (Bhargava et al., "Accelerating two-dimensional page walks for virtualized systems",
ASPLOS 2008).

On this CPU other things are dear, or are lost:

* **No NX.** A walk through a page that is NX in the nested tables ends the process (the CPU writes to where a
  null pointer leads). So all pages can be executed, and every store takes the slow path that looks for
  translated code: work takes two to three times as long as under shadow paging (`hv bench techniques`). New code
  is seen when a block has been translated and before it runs, and its frame is then taken from whoever could
  store to it.
* **No Dirty bits** in nested tables: they are found by write protection, one fault for each page and harvest.
* **Accessed and Dirty bits of the guest's tables** are set by the CPU when its TLB has no entry, and the TLB is
  emptied whenever the monitor changes a mapping. A guest that takes an Accessed bit back without a flush of
  the TLB, as the manuals permit (Intel SDM 3A, 4.10), may see it set again sooner or later than elsewhere. For one that
  flushes, all forms of paging reach the same states.
"""

from __future__ import annotations

from hypervisor.ext.cpu import NESTED_ROOT, ONES, SINK, Cpu
from hypervisor.ext.memory import PhysicalMemory
from hypervisor.hardware.faults import PAGE_FAULT, GuestFault
from hypervisor.paging.base import NO_FRAME, Paging
from hypervisor.paging.entries import PRESENT, USER, WRITABLE
from hypervisor.paging.physical import NOWHERE, RAM_BASE, PhysicalMap
from hypervisor.paging.walk import Translation

READABLE = PRESENT | USER
STORABLE = PRESENT | USER | WRITABLE
CODE = 0x200
"""A bit of an entry that the CPU ignores: the frame is code."""
ENTRIES = 1024
FAULT_BITS = 0xF
"""Of a page fault's error code: what a guest without NX gets to see."""


class NestedPaging(Paging):
    """The nested tables: 32-bit ones (Intel SDM 3A, 4.3), a directory and a table for each 4 MiB."""

    def __init__(self, memory: PhysicalMemory, cpu: Cpu, physical: PhysicalMap) -> None:
        super().__init__(memory, cpu, physical)
        self.root = NESTED_ROOT
        self.regions: set[int] = set()
        """Numbers of the 4 MiB regions that have a table."""
        self.storable: set[int] = set()
        """Frames whose entries allow stores."""
        memory.clear_frame(NESTED_ROOT)
        cpu.load_guest_tables(0, 0, 0)

    # ---------------------------------------------------------------- what the guest does

    def set_control(self, cr0: int, cr3: int, cr4: int) -> None:
        self.guest.set_control(cr0, cr3, cr4)
        self.cpu.load_guest_tables(cr0, cr3, cr4)

    def invalidate(self, gva: int) -> None:
        """INVLPG. This CPU forgets more than the one page."""
        self.cpu.flush_tlb()

    def fault(self, gva: int, write: bool, user: bool, fetch: bool, eip: int, emulates: bool) -> int:
        """Every page fault is the guest's."""
        raise GuestFault(PAGE_FAULT, self.cpu.error_code() & FAULT_BITS, gva)

    # ---------------------------------------------------------------- the nested tables

    def nested_fault(self, gpa: int, write: bool, eip: int) -> None:
        self.fills += 1
        page = gpa & ~0xFFF
        hpa = self.physical.hpa(page)
        slot = self.slot(page)
        if hpa == NOWHERE:
            if write:
                # A walk counts as a store: in case it is one, the sink is full of ones too.
                self.memory.write(SINK, b"\xff" * 4096)
                self.lend(page, slot, SINK | STORABLE, ONES | READABLE, NO_FRAME)
        elif write and self.code[page >> 12] and self.executes_from(page >> 12, eip):
            self.memory.mark_dirty(page, 1)
            self.lend(page, slot, hpa | STORABLE | CODE, hpa | READABLE | CODE, page >> 12)
        else:
            self.allow(page, hpa, write)

    def allow(self, page: int, hpa: int, write: bool) -> None:
        """Let this page of RAM be loaded from, or stored to."""
        frame = page >> 12
        self.memory.bring_in(hpa)
        if write:
            self.memory.mark_dirty(page, 1)
            self.make_data(frame)
            self.put(self.slot(page), hpa | STORABLE)
            self.storable.add(frame)
        elif not self.memory.load32(self.slot(page)):
            self.put(self.slot(page), hpa | READABLE | (CODE if self.code[frame] else 0))

    def slot(self, gpa: int) -> int:
        """Host-physical address of the entry for ``gpa``; its table is made if need be, full of what may be read."""
        region = gpa >> 22
        table = NESTED_ROOT + 0x1000 * (region + 1)
        if region not in self.regions:
            self.regions.add(region)
            for n in range(ENTRIES):
                page = (region << 22) + (n << 12)
                hpa = self.physical.hpa(page)
                if hpa == NOWHERE:
                    entry = ONES | READABLE
                elif self.memory.is_absent(page >> 12):
                    entry = 0
                else:
                    entry = hpa | READABLE | (CODE if self.code[page >> 12] else 0)
                self.memory.store32(table + 4 * n, entry)
            self.memory.store32(NESTED_ROOT + 4 * region, table | STORABLE)
        return table + 4 * (gpa >> 12 & 1023)

    def put(self, slot: int, entry: int) -> None:
        self.memory.store32(slot, entry)

    def slot_in_use(self, address: int) -> int:
        return self.slot(address)

    def drop(self) -> None:
        for region in self.regions:
            self.memory.store32(NESTED_ROOT + 4 * region, 0)
        self.note_dirty()
        self.regions.clear()
        self.storable.clear()
        self.cpu.flush_tlb()

    def tables_in_use(self) -> list[int]:
        return [NESTED_ROOT + 0x1000 * (region + 1) for region in sorted(self.regions)]

    # ---------------------------------------------------------------- code and data

    def translated_new(self, gva: int, size: int) -> None:
        for at in (gva, gva + size - 1 & 0xFFFFFFFF):
            hpa = self.memory.shadow_entry(self.root, at) & ~0xFFF
            if hpa >= RAM_BASE:
                self.make_code(hpa - RAM_BASE >> 12)

    def make_code(self, frame: int) -> None:
        """Nobody may store to this guest frame unseen."""
        self.code[frame] = 1
        self.storable.discard(frame)
        self.put(self.slot(frame << 12), RAM_BASE + (frame << 12) | READABLE | CODE)
        self.cpu.flush_tlb()

    def make_data(self, frame: int) -> None:
        if self.code[frame]:
            self.code[frame] = 0
            slot = self.slot(frame << 12)
            self.put(slot, self.memory.load32(slot) & ~CODE)
            self.cpu.forget_frame(RAM_BASE + (frame << 12))

    def took_back(self, frame: int) -> None:
        """Nothing to do: what was translated from the bytes that were overwritten, the CPU has thrown away itself."""

    # ---------------------------------------------------------------- the monitor's own accesses

    def reach(self, gva: int, page: Translation, write: bool) -> None:
        self.allow(page.gpa, RAM_BASE + page.gpa, write)

    def store_unseen(self, frame: int) -> None:
        self.make_data(frame)

    # ---------------------------------------------------------------- stores that must be seen

    def forbid_stores(self, frames: bytes | bytearray) -> None:
        self.protect([frame for frame in self.storable if frames[frame]])

    def collect_dirty(self) -> None:
        self.note_dirty()
        self.protect(list(self.storable))

    def note_dirty(self) -> None:
        """What can be stored to, may have been."""
        for frame in self.storable:
            self.memory.mark_dirty(frame << 12, 1)

    def protect(self, frames: list[int]) -> None:
        """The next store to each of these frames exits."""
        for frame in frames:
            self.put(self.slot(frame << 12), RAM_BASE + (frame << 12) | READABLE)
        self.storable.difference_update(frames)
        self.cpu.flush_tlb()

    def explain(self, gva: int) -> list[tuple[str, int, int]]:
        gpa = self.guest.locate(gva)
        if gpa == NOWHERE:
            return []
        at = NESTED_ROOT + (gpa >> 22) * 4
        entry = self.memory.load32(at)
        levels = [("nPDE", at, entry)]
        if entry & PRESENT:
            at = (entry & ~0xFFF) + (gpa >> 12 & 1023) * 4
            levels.append(("nPTE", at, self.memory.load32(at)))
        return levels
