"""The traced form of shadow paging: the guest's tables are watched, and their shadows are kept.

For every page directory that the guest has loaded into CR3 there is a *space*, for every page table that
was reached through one, under the rights that its directory entry gives, a *table*; spaces that share
a page table (the kernel's half) share its shadow. A guest frame whose shadow is in use is *traced*: it is
read-only. A store to it faults, and then

* if it is a plain store of one entry, it is emulated, and the shadow of that entry goes if need be;
* if many come one after the other, or it is anything else, the shadow is *unhooked* (nothing in the shadow leads to it any more) and the frame becomes writable, so
  that the guest fills a whole table at full speed. The first access that goes through it faults too; then
  what its new contents justify is kept, the rest is emptied, and it is traced again. An instruction that
  needs the very table for its own accesses is lent the frame for one step instead.

So every change of a table takes effect with the next access, as on a processor without TLB. That makes
this form exact for every guest, also for one that forgets to flush; INVLPG and a reload of CR3 have
nothing to do. A context switch finds its entries where they were.

The scheme is that of Xen's and KVM's shadow code without their out-of-sync tables, which would give the
exactness up again (Barham et al., "Xen and the Art of Virtualization", SOSP 2003, section 3.3.3, has
the first form of it; KVM's is documented as Documentation/virt/kvm/x86/mmu.rst).
"""

from __future__ import annotations

from hypervisor.ext.cpu import POOL, Cpu
from hypervisor.ext.mappings import Mappings
from hypervisor.ext.memory import MONITOR_SIZE, PhysicalMemory
from hypervisor.paging.entries import ACCESSED, DIRTY, LARGE, LINK, PRESENT, USER, WRITABLE
from hypervisor.paging.physical import NOWHERE, RAM_BASE, PhysicalMap
from hypervisor.paging.shadow import ShadowPaging

UNPAGED = 1
"""Stands for the directory while the guest has paging off: no directory is at an odd address."""

PDPTS = 0x1000 // 32
"""So many spaces can be: one frame holds their PDPTs."""
RESERVE = 8
"""Frames that filling one entry can need at most: a directory and a table, twice over."""

PATIENCE = 4
"""So often an instruction may need a frame as a table again after it was released; then it is lent it."""

FLOOD = 6
"""So many stores to a table, with nothing reached through it meanwhile, are the beginning of many more."""

RIGHTS = WRITABLE | USER
CACHEABLE = PRESENT | ACCESSED


class Table:
    """The shadow of one guest page table (or 4 MiB page) as it is seen with certain rights."""

    def __init__(self, key: int, gpa: int, low: int, high: int) -> None:
        self.key = key
        """The guest's directory entry without what does not matter to the shadow: see ``key_of``."""
        self.gpa = gpa
        """The guest's page table; NOWHERE (-1) if there is none to watch."""
        self.low = low
        self.high = high
        """Host-physical frames: 512 entries for the lower 2 MiB, 512 for the upper."""
        self.hooked = False
        self.stores = 0
        """Stores that were emulated since something was reached through it."""
        self.links: list[tuple[Space, int]] = []
        """Where it hangs: a space, and the index in its directory."""


class Space:
    """The shadow of one guest page directory."""

    def __init__(self, gpa: int, root: int) -> None:
        self.gpa = gpa
        """The guest's directory, or UNPAGED."""
        self.root = root
        """Host-physical address of its PDPT."""
        self.directories = [0, 0, 0, 0]
        """Host-physical frames of the shadow directories, 0 where there is none yet."""
        self.hooked = False
        self.stores = 0
        """Stores that were emulated since it was last entered."""
        self.links: dict[int, Table] = {}
        """Index in the guest's directory -> the table that hangs there."""


class TracedShadow(ShadowPaging):
    """The shadows of all address spaces that the guest has used."""

    def __init__(self, memory: PhysicalMemory, cpu: Cpu, physical: PhysicalMap) -> None:
        super().__init__(memory, cpu, physical)
        self.mappings = Mappings(memory)
        self.free = list(range(MONITOR_SIZE - 0x1000, POOL, -0x1000))
        self.roots = list(range(POOL + 0x1000 - 32, POOL - 1, -32))
        self.spaces: dict[int, Space] = {}
        """By the guest's directory."""
        self.tables: dict[int, Table] = {}
        """By key."""
        self.watchers: dict[int, list[Table | Space]] = {}
        """Traced guest frame -> the shadows that are hooked and depend on it."""
        self.released: list[int] = []
        """Frames that were released for one and the same execution of an instruction, as far as can be told."""
        self.releasing = (0, 0, 0)
        """Which execution: instructions retired (never changes under the wall clock), EIP, loans returned."""
        memory.clear_frame(POOL)
        self.space = self.space_of(UNPAGED)
        self.root = self.space.root
        cpu.load_root(self.root)

    # ---------------------------------------------------------------- what the guest does

    def set_control(self, cr0: int, cr3: int, cr4: int) -> None:
        """The guest loaded a control register: another space, or other rules for all of them."""
        if self.guest.set_control(cr0, cr3, cr4):
            self.drop()
        else:
            self.enter_space()

    def invalidate(self, gva: int) -> None:
        """INVLPG: nothing to do, the shadow is as the guest's tables are."""

    def enter_space(self) -> None:
        """Make the space of the guest's current directory the one that the CPU walks."""
        space = self.space_of(self.guest.directory if self.guest.enabled else UNPAGED)
        if space is not self.space:
            self.space = space
            space.stores = 0
            self.root = space.root
            self.cpu.load_root(space.root)

    def space_of(self, gpa: int) -> Space:
        space = self.spaces.get(gpa)
        if space is None:
            if not self.roots:
                self.forget()
            space = self.spaces[gpa] = Space(gpa, self.roots.pop())
        return space

    def drop(self) -> None:
        self.forget()
        self.space = self.space_of(self.guest.directory if self.guest.enabled else UNPAGED)
        self.root = self.space.root
        self.cpu.load_root(self.root)

    def forget(self) -> None:
        """Give all frames back. There is no current space after that."""
        for table in self.tables.values():
            for frame in (table.low, table.high):
                self.mappings.clear_table(frame)
                self.free.append(frame)
        for space in self.spaces.values():
            self.free += [frame for frame in space.directories if frame]
            self.roots.append(space.root)
            for at in range(space.root, space.root + 32, 8):
                self.memory.store64(at, 0)
        for frame in self.watchers:
            self.traced[frame] = 0
        self.tables.clear()
        self.spaces.clear()
        self.watchers.clear()

    # ---------------------------------------------------------------- finding entries

    def slot(self, gva: int, large: bool) -> int:
        if len(self.free) < RESERVE:
            self.drop()
        space = self.space
        table = space.links.get(gva >> 22)
        if table is None:
            table = self.link(space, gva >> 22)
        table.stores = 0
        return (table.high if gva & 0x200000 else table.low) + (gva >> 12 & 511) * 8

    def link(self, space: Space, index: int) -> Table:
        """Hang the table that the guest's directory names into the shadow of the directory."""
        if not space.hooked:
            space.hooked = True
            if space.gpa != UNPAGED:
                self.trace(space.gpa, space)
        key = self.key_of(space, index)
        table = self.tables.get(key)
        if table is None:
            table = self.tables[key] = self.new_table(key)
        if not table.hooked:
            table.hooked = True
            if table.gpa != NOWHERE:
                self.trace(table.gpa, table)
                self.justify(table)
        at = self.directory_entry(space, index)
        self.memory.store64(at, table.low | LINK)
        self.memory.store64(at + 8, table.high | LINK)
        space.links[index] = table
        table.links.append((space, index))
        return table

    def key_of(self, space: Space, index: int) -> int:
        """What of a directory entry decides how the shadow below it looks."""
        if space.gpa == UNPAGED:
            return index << 22 | LARGE | DIRTY | RIGHTS
        entry = self.guest.load(space.gpa + 4 * index)
        if entry & LARGE and self.guest.large_pages:
            return entry & (0xFFC00000 | LARGE | DIRTY | RIGHTS)
        return entry & (0xFFFFF000 | RIGHTS)

    def new_table(self, key: int) -> Table:
        gpa = NOWHERE
        if not key & LARGE and self.physical.hpa(key & ~0xFFF) != NOWHERE:
            gpa = key & ~0xFFF
        low, high = self.free.pop(), self.free.pop()
        self.mappings.clear_table(low)
        self.mappings.clear_table(high)
        return Table(key, gpa, low, high)

    def directory_entry(self, space: Space, index: int) -> int:
        """Host-physical address of the first of the two shadow directory entries for a guest's one."""
        frame = space.directories[index >> 8]
        if not frame:
            frame = space.directories[index >> 8] = self.free.pop()
            self.memory.clear_frame(frame)
            self.memory.store64(space.root + 8 * (index >> 8), frame | PRESENT)
        return frame + (index & 255) * 16

    # ---------------------------------------------------------------- watching the guest's tables

    def trace(self, gpa: int, shadow: Table | Space) -> None:
        """Make the guest frame at ``gpa`` read-only: ``shadow`` shows what it holds."""
        frame = gpa >> 12
        if self.physical.hpa(gpa) == NOWHERE:
            return  # it holds ones, for ever
        self.watchers.setdefault(frame, []).append(shadow)
        if not self.traced[frame]:
            self.traced[frame] = 1
            if self.rewrite(frame, WRITABLE, 0):
                self.cpu.flush_tlb()

    def release(self, frame: int, eip: int) -> bool:
        execution = (self.cpu.get_retired(), eip, self.returned)
        if execution != self.releasing:
            self.releasing = execution
            self.released.clear()
        if frame == self.space.gpa >> 12 or self.released.count(frame) == PATIENCE:
            return False
        self.released.append(frame)
        self.untrace(frame)
        return True

    def follows(self, frame: int) -> bool:
        for shadow in self.watchers[frame]:
            if shadow.stores == FLOOD and shadow is not self.space:
                return False
        for shadow in self.watchers[frame]:
            shadow.stores += 1
        return True

    def store_entry(self, hpa: int, value: int) -> None:
        self.memory.store32(hpa, value)
        index = hpa >> 2 & 1023
        restricted = False
        for shadow in self.watchers[hpa - RAM_BASE >> 12]:
            if isinstance(shadow, Space):
                restricted |= self.relink(shadow, index)
            else:
                table: Table = shadow
                slot = (table.high if index & 512 else table.low) + (index & 511) * 8
                restricted |= self.mappings.keep_justified(
                    slot, value, table.key & RIGHTS, self.guest.write_protect
                )
        if restricted:
            self.cpu.flush_tlb()

    def relink(self, space: Space, index: int) -> bool:
        """An entry of a space's directory may have changed: unlink what it does not justify. Did it?"""
        table = space.links.get(index)
        if table is None:
            return False
        entry = self.guest.load(space.gpa + 4 * index)
        if entry & CACHEABLE == CACHEABLE and self.key_of(space, index) == table.key:
            return False
        self.unlink(space, index)
        return True

    def untrace(self, frame: int) -> None:
        """Unhook everything that depends on a frame; stores to it need not be seen any more."""
        for shadow in self.watchers.pop(frame, ()):
            shadow.hooked = False
            if isinstance(shadow, Space):
                for index in list(shadow.links):
                    self.unlink(shadow, index)
            else:
                for space, index in list(shadow.links):
                    self.unlink(space, index)
        self.traced[frame] = 0
        self.cpu.flush_tlb()

    def unlink(self, space: Space, index: int) -> None:
        """Take the table at an index out of a space."""
        table = space.links.pop(index)
        table.links.remove((space, index))
        at = self.directory_entry(space, index)
        self.memory.store64(at, 0)
        self.memory.store64(at + 8, 0)

    def retrace(self, frame: int) -> None:
        for shadow in list(self.watchers.get(frame, ())):
            if isinstance(shadow, Space):
                for index in list(shadow.links):
                    self.relink(shadow, index)
            else:
                self.justify(shadow)

    def justify(self, table: Table) -> None:
        """Empty the entries of a table that its guest table does not justify. The TLB is the caller's matter."""
        hpa = self.physical.hpa(table.gpa)
        rights = table.key & RIGHTS
        for frame in (table.low, table.high):
            self.mappings.keep_justified_table(frame, hpa, rights, self.guest.write_protect)
            hpa += 2048

    # ---------------------------------------------------------------- entries

    def put(self, slot: int, entry: int) -> None:
        self.mappings.put(slot, entry)

    def rewrite(self, frame: int, clear: int, bits: int) -> int:
        return self.mappings.rewrite(frame, clear, bits)

    def forbid_stores(self, frames: bytes | bytearray) -> None:
        self.mappings.forbid_stores(frames)
        self.cpu.flush_tlb()

    def collect_dirty(self) -> None:
        self.mappings.collect_dirty()
        self.cpu.flush_tlb()

    def tables_in_use(self) -> list[int]:
        return [frame for table in self.tables.values() for frame in (table.low, table.high)]
