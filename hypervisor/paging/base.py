"""What every form of paging is to the monitor, whatever tables the CPU walks.

A frame of RAM is at any time either *data* or *code*: what may be stored to unseen, or what instructions may have
been translated from. A store to a code frame exits, and what was translated from it is thrown away; so no store ever
meets code that could run, and self-modifying code is exact by construction, through aliases and from devices too.

A store into the very page that the instruction itself is in could go back and forth for ever; such an instruction
is *lent* the page, writable, for one step. The same loan serves stores to addresses without memory, which go into
a sink for one instruction.
"""

from __future__ import annotations

from hypervisor.ext.cpu import Cpu
from hypervisor.ext.memory import PhysicalMemory
from hypervisor.marks import how_many
from hypervisor.paging.entries import ADDRESS
from hypervisor.paging.physical import NOWHERE, RAM_BASE, PhysicalMap
from hypervisor.paging.walk import GuestTables, Translation

NO_FRAME = -1


class Paging:
    """The paging of one machine; a form says which tables there are, and how they are filled."""

    def __init__(self, memory: PhysicalMemory, cpu: Cpu, physical: PhysicalMap) -> None:
        self.memory = memory
        self.cpu = cpu
        self.physical = physical
        self.code = bytearray(physical.size >> 12)
        """For each guest frame: is it code?"""
        self.guest = GuestTables(memory, physical, self.code, self.make_data)
        self.loans: list[tuple[int, int, int]] = []
        """Pages lent for one instruction: (the address that is lent, the entry to put back, the guest frame that
        is lent to be written, or NO_FRAME)."""
        self.exposed: list[int] = []
        """Frames to which the monitor stores, and of which something was derived that ``settle`` makes true again."""
        self.fills = 0
        self.returned = 0
        """How often loans were returned: then an instruction got through."""
        self.root = 0
        """Names the tables that translate the guest's linear addresses, for ``memory``."""

    # ---------------------------------------------------------------- what a form provides

    def set_control(self, cr0: int, cr3: int, cr4: int) -> None:
        """The guest loaded control registers."""
        raise NotImplementedError

    def invalidate(self, gva: int) -> None:
        """INVLPG."""
        raise NotImplementedError

    def drop(self) -> None:
        """Forget every entry. A hidden matter: the guest cannot tell."""
        raise NotImplementedError

    def fault(self, gva: int, write: bool, user: bool, fetch: bool, eip: int, emulates: bool) -> int:
        """A page fault exited: fill what is missing, or raise GuestFault if the fault is the guest's.

        ``eip`` is the linear address of the instruction. If the caller ``emulates``, and the fault is a store to
        an entry of a traced table that had better be emulated, nothing is done, and the entry's host-physical
        address is returned, for ``store_entry``; otherwise NOWHERE.
        """
        raise NotImplementedError

    def nested_fault(self, gpa: int, write: bool, eip: int) -> None:
        """An access to a guest-physical address exited, which only nested paging does: fill what is missing."""
        raise NotImplementedError

    def translated_new(self, gva: int, size: int) -> None:
        """A block was translated from these linear addresses, and has not run."""

    def make_data(self, frame: int) -> None:
        """This guest frame is about to be stored to: nothing that was translated from it may run."""
        raise NotImplementedError

    def put(self, slot: int, entry: int) -> None:
        """Write a last-level entry at this host-physical address."""
        raise NotImplementedError

    def slot_in_use(self, address: int) -> int:
        """Host-physical address of the last-level entry for an address that is lent, or 0 if its table is gone."""
        raise NotImplementedError

    def took_back(self, frame: int) -> None:
        """A code frame that was lent may hold something else now."""
        raise NotImplementedError

    def reach(self, gva: int, page: Translation, write: bool) -> None:
        """The monitor is about to carry out an access to this page of RAM, whose frame is here."""
        raise NotImplementedError

    def store_unseen(self, frame: int) -> None:
        """This guest frame is about to be stored to, by whoever does not look what was derived from it."""
        raise NotImplementedError

    def forbid_stores(self, frames: bytes | bytearray) -> None:
        """No entry that maps a frame whose byte in ``frames`` is not 0 allows a store to it any more."""
        raise NotImplementedError

    def store_entry(self, hpa: int, value: int) -> None:
        """The guest stores an entry (32 bits) into a table that is followed, at this host-physical address."""
        raise NotImplementedError

    def settle(self) -> None:
        """What was stored to the addresses of ``host_address`` is there now."""

    def collect_dirty(self) -> None:
        """Note in the memory's dirty map what was stored to through the tables, and make them clean."""
        raise NotImplementedError

    def tables_in_use(self) -> list[int]:
        """Host-physical addresses of all last-level tables."""
        raise NotImplementedError

    def explain(self, gva: int) -> list[tuple[str, int, int]]:
        """The monitor's levels of a translation as (name, address of the entry, entry)."""
        raise NotImplementedError

    # ---------------------------------------------------------------- code

    def executes_from(self, frame: int, eip: int) -> bool:
        """Does the code that runs at linear address ``eip`` lie in this guest frame?

        What counts is not the instruction but its block, which may reach into the next page. If a store
        took that page away, the block could not be translated again without getting it back, and the
        store in it would never be executed.
        """
        hpa = RAM_BASE + (frame << 12)
        first = self.memory.shadow_entry(self.root, eip & 0xFFFFFFFF)
        last = self.memory.shadow_entry(self.root, (eip | 0xFFF) + 1 & 0xFFFFFFFF)
        return hpa in (first & ADDRESS, last & ADDRESS)

    def forget_code(self) -> None:
        """All of RAM may have changed: drop everything that was derived from it."""
        if how_many(self.code):
            self.code[:] = bytes(len(self.code))
        self.drop()
        self.cpu.forget_all()

    def about_to_write(self, gpa: int, size: int) -> None:
        """Somebody will store to guest RAM through ``ram_view`` before the guest runs."""
        self.memory.mark_dirty(gpa, size)
        for frame in range(gpa >> 12, (gpa + size + 4095) >> 12):
            self.store_unseen(frame)

    # ---------------------------------------------------------------- the monitor's own accesses

    def host_address(self, gva: int, write: bool, user: bool) -> int:
        """Where an access of the guest that the monitor carries out goes: a host-physical address, or
        NOWHERE. Raises GuestFault like the access itself.
        """
        hpa = self.memory.translate(self.root, gva, write, user)
        if hpa >= 0:
            return hpa if hpa >= RAM_BASE else NOWHERE
        page = self.guest.walk(gva, write, user)
        hpa = self.physical.hpa(page.gpa)
        if hpa == NOWHERE:
            return NOWHERE
        self.memory.bring_in(hpa)
        self.reach(gva, page, write)
        return hpa + (gva & 0xFFF)

    # ---------------------------------------------------------------- loans

    def lend(self, address: int, slot: int, entry: int, after: int, frame: int) -> None:
        """Let ``slot`` map ``address`` by ``entry`` until the current instruction is over, then by ``after``.

        ``frame`` is the guest frame if it is lent to be written although it is not plain data, or NO_FRAME.
        """
        self.put(slot, entry)
        self.loans.append((address, after, frame))
        self.cpu.set_lent(True)
        self.cpu.flush_tlb()

    def return_loans(self) -> None:
        """The instruction is over, or was given up."""
        for address, after, frame in reversed(self.loans):
            slot = self.slot_in_use(address)
            if slot:
                self.put(slot, after)
            if frame != NO_FRAME:
                self.took_back(frame)
        self.loans.clear()
        self.returned += 1
        self.cpu.set_lent(False)
        self.cpu.flush_tlb()

    def statistics(self) -> dict[str, int]:
        """Counts, by what is counted."""
        return {"fills": self.fills, "tables": len(self.tables_in_use()), "code frames": sum(self.code)}
