"""Shadow page tables: what the emulated CPU walks instead of the guest's tables.

They are real x86 tables (PAE with NX, Intel SDM 3A, 4.4) in the monitor's memory, empty at first. An
access to what is not there exits as a page fault; then the guest's tables are walked, and either the
guest gets the fault, which is its own, or the entry is filled and the instruction runs again. The fault
was *hidden*: the guest cannot tell. When an entry must go is what the two forms differ in: see ``lazy``,
which waits for the guest's flush, and ``traced``, which watches the guest's tables. What both share is here.

What ``base`` says of data and code is kept up by what the entries allow:

* data: its mappings are NX (stores are ten times faster through them on this CPU), writable if the
  guest's tables are and the guest's Dirty bit is set;
* code: its mappings may be executed and are read-only, whatever the guest's tables say.

A fetch from a data frame makes it code, a store to a code frame makes it data again. What was translated from a frame
is thrown away when it becomes code the next time, and only if it does not hold the same again; a program that is
started twice often finds itself in the frames where it was before.

Data that is at the same time a page table of the guest may be *traced*, and is then read-only like code. And
any frame may be *protected* (see ``copy_on_write``): read-only until what it holds has been kept.

A frame that is *absent* (see ``absent``) is fetched before an entry that maps it is filled, and so the CPU
never reaches one.
"""

from __future__ import annotations

from hypervisor.ext.cpu import ONES, SINK, Cpu
from hypervisor.ext.memory import PhysicalMemory
from hypervisor.paging.base import NO_FRAME, Paging
from hypervisor.paging.entries import ACCESSED, ADDRESS, DIRTY, NX, PRESENT, USER, WRITABLE
from hypervisor.paging.physical import NOWHERE, RAM_BASE, PhysicalMap
from hypervisor.paging.walk import Translation

NEIGHBOURS = 16
"""Entries that are filled together: an aligned group, so never across two tables."""
CACHEABLE = PRESENT | ACCESSED
MOST_TRANSLATED = 2048
"""Of so many data frames it is remembered what they held as code."""


class ShadowPaging(Paging):
    """What is common to all forms of shadow paging; a form says how shadow tables are kept and found."""

    def __init__(self, memory: PhysicalMemory, cpu: Cpu, physical: PhysicalMap) -> None:
        super().__init__(memory, cpu, physical)
        self.traced = bytearray(physical.size >> 12)
        """For each guest frame: is it a page table whose shadow is in use, so that stores to it must be seen?"""
        self.translated: dict[int, bytes] = {}
        """Data frames that were code, and what they held then: what was translated from them is still there."""

    # ---------------------------------------------------------------- what a form provides

    def slot(self, gva: int, large: bool) -> int:
        """Host-physical address of the last-level entry for ``gva``; its table is made if need be.

        The guest's tables have just been walked for ``gva``; ``large`` says that a 4 MiB page was found.
        """
        raise NotImplementedError

    def rewrite(self, frame: int, clear: int, bits: int) -> int:
        """In every entry that maps this guest frame: clear and set bits; returns how many changed."""
        raise NotImplementedError

    def release(self, frame: int, eip: int) -> bool:
        """The instruction at ``eip`` stores to a traced frame: stop tracing it, if that helps.

        False says that the instruction needs that very table for its own accesses.
        """
        raise NotImplementedError

    def follows(self, frame: int) -> bool:
        """Is a single store to this traced frame better emulated?"""
        raise NotImplementedError

    def retrace(self, frame: int) -> None:
        """A traced frame was stored to: drop what its new contents do not justify."""
        raise NotImplementedError

    # ---------------------------------------------------------------- filling

    def fault(self, gva: int, write: bool, user: bool, fetch: bool, eip: int, emulates: bool) -> int:
        self.fills += 1
        page = self.guest.walk(gva, write, user)
        hpa = self.physical.hpa(page.gpa)
        if hpa == NOWHERE:
            self.fill_hole(gva, self.slot(gva, page.large), write, page.user)
            return NOWHERE
        self.memory.bring_in(hpa)
        entry = hpa | PRESENT | (USER if page.user else 0)
        frame = page.gpa >> 12
        if write:
            self.memory.about_to_store(frame)
        if fetch:
            slot = self.slot(gva, page.large)
            self.make_code(frame)
        elif write and emulates and self.traced[frame] and not gva & 3 and self.follows(frame):
            return hpa + (gva & 0xFFF)
        elif write and (self.code[frame] or self.traced[frame]) and not self.give_up(frame, eip):
            executable = self.code[frame] != 0
            self.lend(
                gva,
                self.slot(gva, page.large),
                entry | WRITABLE | (0 if executable else NX),
                entry | NX,
                frame,
            )
            return NOWHERE
        else:
            slot = self.slot(gva, page.large)
        self.fill(slot, entry, page, write, fetch)
        if self.guest.enabled and not page.large:
            self.prefill(gva, slot)
        return NOWHERE

    def give_up(self, frame: int, eip: int) -> bool:
        """Make this frame plain data for a store; False if the storing instruction cannot do without it as it is."""
        executing = self.code[frame] and self.executes_from(frame, eip)
        if self.traced[frame] and not self.release(frame, eip):
            if not executing:
                self.make_data(frame)
            return False
        if executing:
            return False
        self.make_data(frame)
        return True

    def prefill(self, gva: int, slot: int) -> None:
        """Fill the neighbours of an entry that was just filled: where one page is used, others are.

        The guest must not be able to tell, so only what its processor might have cached is filled: entries
        that have Accessed set already, writable only with Dirty set. Nothing changes in guest memory.
        """
        guest, memory = self.guest, self.memory
        upper = guest.load(guest.directory + (gva >> 22) * 4)
        group = gva & ~(NEIGHBOURS * 0x1000 - 1)
        slot &= ~(NEIGHBOURS * 8 - 1)
        table = (upper & ~0xFFF) + (group >> 12 & 1023) * 4
        for n in range(NEIGHBOURS):
            lower = guest.load(table + 4 * n)
            if lower & CACHEABLE != CACHEABLE or memory.load64(slot + 8 * n):
                continue
            hpa = self.physical.hpa(lower & ~0xFFF)
            if hpa == NOWHERE or memory.is_absent(lower >> 12):
                continue
            both = upper & lower
            entry = hpa | PRESENT | (both & USER)
            if not self.code[lower >> 12]:
                entry |= NX
                if both & WRITABLE and lower & DIRTY and self.unwatched(lower >> 12):
                    entry |= WRITABLE
            self.put(slot + 8 * n, entry)

    def fill(self, slot: int, entry: int, page: Translation, write: bool, fetch: bool) -> None:
        """Write a last-level entry for RAM: as much as the guest's tables and the frame's use allow."""
        if not fetch:
            entry |= NX
        if not self.code[page.gpa >> 12] and self.unwatched(page.gpa >> 12):
            if page.writable and page.dirty:
                entry |= WRITABLE
            elif write:
                # A supervisor store to a read-only page with CR0.WP clear. The real WP is always set, so
                # the page becomes writable, and for as long as it is, it is the supervisor's alone.
                entry = (entry | WRITABLE) & ~USER
        old = self.memory.load64(slot)
        self.put(slot, entry)
        if old & PRESENT and old & ~entry & (WRITABLE | USER):
            self.cpu.flush_tlb()

    def unwatched(self, frame: int) -> bool:
        """May a frame of data be stored to without anyone noticing?"""
        return not self.traced[frame] and not self.memory.protected(frame)

    def fill_hole(self, gva: int, slot: int, write: bool, user: bool) -> None:
        entry = ONES | PRESENT | (USER if user else 0)
        if write:
            # Full of ones too, and executable: the instruction itself may lie in this page.
            self.memory.write(SINK, b"\xff" * 4096)
            self.lend(gva, slot, SINK | (entry & ~ADDRESS) | WRITABLE, entry, NO_FRAME)
        else:
            self.put(slot, entry)

    # ---------------------------------------------------------------- code and data

    def make_code(self, frame: int) -> None:
        """Instructions are about to be fetched from this guest frame: nobody may store to it unseen."""
        if not self.code[frame]:
            self.code[frame] = 1
            before = self.translated.pop(frame, None)
            if before is not None and before != self.memory.read(RAM_BASE + (frame << 12), 4096):
                self.cpu.forget_frame(RAM_BASE + (frame << 12))
            if self.rewrite(frame, WRITABLE, 0):
                self.cpu.flush_tlb()

    def make_data(self, frame: int) -> None:
        """This guest frame is about to be stored to: nothing may be executed from it."""
        if self.code[frame]:
            self.code[frame] = 0
            if len(self.translated) == MOST_TRANSLATED:
                self.cpu.forget_frame(RAM_BASE + (self.translated.popitem()[0] << 12))
            self.translated[frame] = self.memory.read(RAM_BASE + (frame << 12), 4096)
            if self.rewrite(frame, 0, NX):
                self.cpu.flush_tlb()

    def forget_code(self) -> None:
        self.translated.clear()
        super().forget_code()

    # ---------------------------------------------------------------- loans

    def slot_in_use(self, address: int) -> int:
        return self.memory.shadow_slot_address(self.root, address)

    def took_back(self, frame: int) -> None:
        self.rewrite(frame, 0, NX)
        if self.traced[frame]:
            self.retrace(frame)

    # ---------------------------------------------------------------- the monitor's own accesses

    def reach(self, gva: int, page: Translation, write: bool) -> None:
        frame = page.gpa >> 12
        if write:
            self.memory.about_to_store(frame)
            self.make_data(frame)
            if self.traced[frame]:
                # Not filled: then nothing is certain to use this table before the caller has stored.
                self.exposed.append(frame)
                return
        entry = RAM_BASE + page.gpa | PRESENT | (USER if page.user else 0)
        self.fill(self.slot(gva, page.large), entry, page, write, False)

    def settle(self) -> None:
        if self.exposed:
            for frame in self.exposed:
                if self.traced[frame]:
                    self.retrace(frame)
            self.exposed.clear()
            self.cpu.flush_tlb()

    def store_unseen(self, frame: int) -> None:
        if self.code[frame]:
            # What it held when it was translated may be gone by now: there is nothing to compare with.
            self.make_data(frame)
            del self.translated[frame]
            self.cpu.forget_frame(RAM_BASE + (frame << 12))
        if self.traced[frame]:
            self.exposed.append(frame)

    def explain(self, gva: int) -> list[tuple[str, int, int]]:
        at = self.root + (gva >> 30) * 8
        entry = self.memory.load64(at)
        levels = [("PDPTE", at, entry)]
        for name, shift in (("PDE", 21), ("PTE", 12)):
            if not entry & PRESENT:
                break
            at = (entry & ADDRESS) + (gva >> shift & 511) * 8
            entry = self.memory.load64(at)
            levels.append((name, at, entry))
        return levels

    def statistics(self) -> dict[str, int]:
        return super().statistics() | {"traced frames": sum(self.traced)}
