# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Shadow page-table entries with a reverse map: for each guest frame, all entries that map it.

The traced form of shadow paging keeps the tables of many address spaces. To take a right away from a
frame (it became code, or a page table of the guest) every entry that maps it must be found, and scanning
all tables would cost more than the fault. So entries of one frame form a list through arrays that are
parallel to the monitor's memory: as long as entries are written by ``put`` alone, each is in exactly the
list of the frame that it maps. (KVM and Xen keep such maps for the same reason.)

The CPU sets Accessed and Dirty in these entries itself. A Dirty bit that is lost when an entry is
replaced is noted in the memory's dirty map first.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport calloc, free

from hypervisor.ext.memory cimport PhysicalMemory

cdef enum:
    MONITOR = 16 << 20
    PAGE = 4096
    PRESENT = 1
    WRITABLE = 2
    USER = 4
    ACCESSED = 0x20
    DIRTY = 0x40
    CONTENTS = 512      # entries in a PAE table

cdef uint64_t ADDRESS = 0x000ffffffffff000


cdef class Mappings:
    """The last-level entries in the monitor's memory, and which of them map a guest frame.

    An entry is named by its host-physical address. Raises MemoryError if the host has not got the memory
    for the lists (16 MiB of address space, of which only what is used is touched).
    """

    def __cinit__(self, PhysicalMemory memory):
        self.memory = memory
        self.heads = <uint32_t *>calloc(memory.ram_size >> 12, sizeof(uint32_t))
        self.following = <uint32_t *>calloc(MONITOR >> 3, sizeof(uint32_t))
        self.preceding = <uint32_t *>calloc(MONITOR >> 3, sizeof(uint32_t))
        if self.heads == NULL or self.following == NULL or self.preceding == NULL:
            raise MemoryError("no memory for the reverse map of shadow page tables")

    def __dealloc__(self):
        free(self.heads)
        free(self.following)
        free(self.preceding)

    cdef inline int64_t frame_of(self, uint64_t entry) noexcept:
        """The guest frame that an entry maps, or -1: it is absent, or maps the monitor's frame of ones."""
        cdef uint64_t hpa = entry & ADDRESS
        return (hpa - MONITOR) >> 12 if entry & PRESENT and MONITOR <= hpa < self.memory.limit else -1

    cdef void remove(self, uint64_t slot, int64_t frame) noexcept:
        """Take an entry out of its frame's list. Numbers of entries are never 0: that is the VMCB's memory."""
        cdef uint32_t number = <uint32_t>(slot >> 3)
        cdef uint32_t after = self.following[number]
        cdef uint32_t before = self.preceding[number]
        if before:
            self.following[before] = after
        else:
            self.heads[frame] = after
        if after:
            self.preceding[after] = before

    cdef void insert(self, uint64_t slot, int64_t frame) noexcept:
        cdef uint32_t number = <uint32_t>(slot >> 3)
        cdef uint32_t first = self.heads[frame]
        self.following[number] = first
        self.preceding[number] = 0
        if first:
            self.preceding[first] = number
        self.heads[frame] = number

    cpdef int put(self, uint64_t slot, uint64_t entry) except -1:
        """Write the entry at ``slot``."""
        cdef uint64_t *at = <uint64_t *>self.memory.at(slot, 8)
        cdef int64_t old = self.frame_of(at[0])
        cdef int64_t new = self.frame_of(entry)
        if old >= 0 and at[0] & DIRTY:
            self.memory.dirty[old] = 1
        if old != new:
            if old >= 0:
                self.remove(slot, old)
            if new >= 0:
                self.insert(slot, new)
        at[0] = entry
        return 0

    cpdef int clear_table(self, uint64_t table) except -1:
        """Empty a table of 512 entries."""
        cdef uint64_t *at = <uint64_t *>self.memory.at(table, PAGE)
        cdef uint32_t i
        for i in range(CONTENTS):
            if at[i]:
                self.put(table + 8 * i, 0)
        return 0

    cpdef uint32_t rewrite(self, uint32_t frame, uint64_t clear, uint64_t set) except? 0xdeadbeef:
        """In every entry that maps this guest frame: clear and set these bits. Returns how many changed."""
        cdef uint64_t *entries = <uint64_t *>self.memory.monitor_base
        cdef uint32_t number = self.heads[frame] if frame < self.memory.ram_size >> 12 else 0
        cdef uint32_t changed = 0
        cdef uint64_t new
        while number:
            new = (entries[number] & ~clear) | set
            if new != entries[number]:
                entries[number] = new
                changed += 1
            number = self.following[number]
        return changed

    def forbid_stores(self, const uint8_t[::1] frames not None):
        """Take the right to store from every entry that maps a frame whose byte in ``frames`` is not 0.

        The TLB has to be flushed after that.
        """
        cdef Py_ssize_t frame
        if frames.shape[0] != <Py_ssize_t>(self.memory.ram_size >> 12):
            raise ValueError(f"{frames.shape[0]} marks for {self.memory.ram_size >> 12} frames")
        for frame in range(frames.shape[0]):
            if frames[frame] and self.heads[frame]:
                self.rewrite(<uint32_t>frame, WRITABLE, 0)

    cpdef bint keep_justified(self, uint64_t slot, uint32_t entry, uint32_t rights, bint write_protect) except? -1:
        """Empty the entry at ``slot`` unless the guest's entry justifies it. Returns whether it was emptied.

        ``rights`` is what the guest's directory allows there, ``write_protect`` its CR0.WP. It is justified if
        a walk would find the same frame, would set no bit, and would grant at least what it does.
        """
        cdef uint64_t shadow = (<uint64_t *>self.memory.at(slot, 8))[0]
        cdef bint stands
        if not shadow:
            return False
        stands = (entry & (PRESENT | ACCESSED) == PRESENT | ACCESSED
                  and shadow & ADDRESS == <uint64_t>(entry & ~<uint32_t>0xfff) + MONITOR)
        entry &= rights | DIRTY
        if shadow & USER and not entry & USER:
            stands = False
        if shadow & WRITABLE and not (entry & DIRTY and (
                entry & WRITABLE or not (write_protect or shadow & USER))):
            stands = False
        if not stands:
            self.put(slot, 0)
        return not stands

    cpdef int keep_justified_table(self, uint64_t table, uint64_t guest_table, uint32_t rights,
                                   bint write_protect) except -1:
        """The same for a whole table; ``guest_table`` is where the 512 guest entries are that it stands for."""
        cdef uint64_t *entries = <uint64_t *>self.memory.at(table, PAGE)
        cdef uint32_t *guest = <uint32_t *>self.memory.at(guest_table, PAGE // 2)
        cdef uint32_t i
        for i in range(CONTENTS):
            if entries[i]:
                self.keep_justified(table + 8 * i, guest[i], rights, write_protect)
        return 0

    def collect_dirty(self):
        """Note in the memory's dirty map what was stored to through entries, and make these clean.

        The TLB has to be flushed after that: it remembers that an entry is dirty.
        """
        cdef uint64_t *entries = <uint64_t *>self.memory.monitor_base
        cdef uint64_t frame
        cdef uint32_t number
        for frame in range(self.memory.ram_size >> 12):
            number = self.heads[frame]
            while number:
                if entries[number] & DIRTY:
                    self.memory.dirty[frame] = 1
                    entries[number] &= ~<uint64_t>DIRTY
                number = self.following[number]
