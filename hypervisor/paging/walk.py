"""Walking the guest's own page tables, as its processor would (Intel SDM 3A, 4.3 and 4.6-4.8).

32-bit paging with 4 KiB pages and, when CR4.PSE says so, 4 MiB pages. A walk sets, in the guest's memory, the
Accessed bit of a directory entry that it goes through, whether or not it gets further, as QEMU and processors
do; of the entry that maps the page only if the access is allowed, and for a store its Dirty bit.
"""

from __future__ import annotations

from collections.abc import Callable

from hypervisor.ext.memory import PhysicalMemory
from hypervisor.hardware.faults import PAGE_FAULT, GuestFault
from hypervisor.paging.entries import ACCESSED, DIRTY, LARGE, PRESENT, USER, WRITABLE
from hypervisor.paging.physical import NOWHERE, PhysicalMap

ONES = 0xFFFFFFFF
CR0_WP, CR0_PG, CR4_PSE = 0x10000, 0x80000000, 0x10


class Translation:
    """What a walk found: the page's guest-physical address and what the guest may do there."""

    def __init__(self, gpa: int, writable: bool, user: bool, dirty: bool, large: bool) -> None:
        self.gpa = gpa
        self.writable = writable
        self.user = user
        self.dirty = dirty
        self.large = large


class GuestTables:
    """The page tables that CR0, CR3 and CR4 of the guest describe."""

    def __init__(
        self,
        memory: PhysicalMemory,
        physical: PhysicalMap,
        code: bytearray,
        before_store: Callable[[int], None],
    ) -> None:
        self.memory = memory
        self.physical = physical
        self.code = code
        """For each guest frame: may something have been translated from it?"""
        self.before_store = before_store
        """Called with such a frame when a bit is about to be set in it."""
        self.enabled = False
        self.write_protect = False
        self.large_pages = False
        self.directory = 0

    def set_control(self, cr0: int, cr3: int, cr4: int) -> bool:
        """The control registers were loaded. Returns whether anything but the directory has changed."""
        before = (self.enabled, self.write_protect, self.large_pages)
        self.enabled = cr0 & CR0_PG != 0
        self.write_protect = cr0 & CR0_WP != 0
        self.large_pages = cr4 & CR4_PSE != 0
        self.directory = cr3 & ~0xFFF
        return before != (self.enabled, self.write_protect, self.large_pages)

    def load(self, gpa: int) -> int:
        """A table entry; ones where there is no memory."""
        hpa = self.physical.hpa(gpa)
        return ONES if hpa == NOWHERE else self.memory.load32(hpa)

    def set_bits(self, gpa: int, entry: int, bits: int) -> int:
        """Set bits of a table entry in guest memory (where there is memory) and return the entry."""
        if entry & bits != bits:
            entry |= bits
            hpa = self.physical.hpa(gpa)
            if hpa != NOWHERE:
                if self.code[gpa >> 12]:
                    self.before_store(gpa >> 12)
                self.memory.store32(hpa, entry)
        return entry

    def walk(self, gva: int, write: bool, user: bool) -> Translation:
        """Translate for an access; raises GuestFault (#PF) with the error code of SDM 3A, 4.7.

        There is no execute-disable in 32-bit tables, so a fetch is a read.
        """
        if not self.enabled:
            return Translation(gva & ~0xFFF, True, True, True, False)
        directory_at = self.directory + (gva >> 22) * 4
        upper = self.load(directory_at)
        reason = (2 if write else 0) | (4 if user else 0)
        if not upper & PRESENT:
            raise GuestFault(PAGE_FAULT, reason, gva)
        if upper & LARGE and self.large_pages:
            self.check(upper, write, user, reason, gva)
            upper = self.set_bits(directory_at, upper, ACCESSED | (DIRTY if write else 0))
            gpa = (upper & 0xFFC00000) | (gva & 0x003FF000)
            return Translation(gpa, upper & WRITABLE != 0, upper & USER != 0, upper & DIRTY != 0, True)
        upper = self.set_bits(directory_at, upper, ACCESSED)
        table_at = (upper & ~0xFFF) + (gva >> 12 & 1023) * 4
        lower = self.load(table_at)
        if not lower & PRESENT:
            raise GuestFault(PAGE_FAULT, reason, gva)
        both = upper & lower
        self.check(both, write, user, reason, gva)
        lower = self.set_bits(table_at, lower, ACCESSED | (DIRTY if write else 0))
        return Translation(lower & ~0xFFF, both & WRITABLE != 0, both & USER != 0, lower & DIRTY != 0, False)

    def reads_unseen(self, gva: int, user: bool) -> bool:
        """Would a walk for reading succeed, and set no bit?"""
        if not self.enabled:
            return True
        rights = self.load(self.directory + (gva >> 22) * 4)
        if rights & PRESENT and not (rights & LARGE and self.large_pages):
            rights &= self.load((rights & ~0xFFF) + (gva >> 12 & 1023) * 4)
        wanted = PRESENT | ACCESSED | (USER if user else 0)
        return rights & wanted == wanted

    def check(self, rights: int, write: bool, user: bool, reason: int, gva: int) -> None:
        """Raise #PF if ``rights`` (of all levels together) forbid the access."""
        if user and not rights & USER:
            raise GuestFault(PAGE_FAULT, reason | 1, gva)
        if write and not rights & WRITABLE and (user or self.write_protect):
            raise GuestFault(PAGE_FAULT, reason | 1, gva)

    def locate(self, gva: int) -> int:
        """Guest-physical address of ``gva``, without side effects; NOWHERE (-1) if it has none."""
        if not self.enabled:
            return gva
        name, _, entry = self.explain(gva)[-1]
        if not entry & PRESENT:
            return NOWHERE
        return entry & 0xFFC00000 | gva & 0x3FFFFF if name == "PDE" else entry & ~0xFFF | gva & 0xFFF

    def explain(self, gva: int) -> list[tuple[str, int, int]]:
        """The levels of a translation as (name, address of the entry, entry), without side effects."""
        if not self.enabled:
            return []
        at = self.directory + (gva >> 22) * 4
        upper = self.load(at)
        levels = [("PDE", at, upper)]
        if upper & PRESENT and not (upper & LARGE and self.large_pages):
            at = (upper & ~0xFFF) + (gva >> 12 & 1023) * 4
            levels.append(("PTE", at, self.load(at)))
        return levels
