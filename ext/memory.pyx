# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Host-physical memory: what the emulated CPU sees on its memory bus.

Two mappings, fixed for the life of a machine: the *monitor's* 16 MiB at host-physical address 0
(VMCB, shadow page tables, the frame of ones), and *guest RAM* above it, a shared memory file so that
devices, snapshots and the page encoders see it without copying.

Loads and stores are typed, little-endian and bounds-checked. The functions that take a shadow root
walk PAE tables (Intel SDM 3A, 4.4) as the CPU itself does; they are the monitor's own TLB.
"""

from cpython.buffer cimport PyBUF_WRITE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.string cimport memcpy, memset
from libc.errno cimport ENXIO, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

import mmap
import os

from hypervisor.errors import AddressError, HostError

from libc.stdlib cimport calloc, free

cdef extern from "<sys/mman.h>" nogil:
    void *mmap_ "mmap" (void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    void *MAP_FAILED
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE

MONITOR_SIZE = 16 << 20
"""Bytes of the monitor's own memory; guest RAM begins at this host-physical address."""
cdef enum:
    MONITOR = 16 << 20
    PAGE = 4096

cdef extern from "<sched.h>":
    pass

cdef extern from *:
    """
    /* The states of a frame: 0, 1 protected, 2 being copied. Two threads may want to copy it: the guest's,
       which is about to store to it, and the one that saves it. One does, the other waits that long. */
    static int claim(unsigned char *state)
    {
        for (;;) {
            unsigned char found = 1;
            if (__atomic_compare_exchange_n(state, &found, 2, 0, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE))
                return 1;
            if (!found)
                return 0;
            sched_yield();
        }
    }

    static void settle(unsigned char *state)
    {
        __atomic_store_n(state, 0, __ATOMIC_RELEASE);
    }
    """
    bint claim(uint8_t *state) nogil
    void settle(uint8_t *state) nogil

cdef uint64_t ADDRESS = 0x000ffffffffff000
cdef enum:
    PRESENT = 1
    WRITABLE = 2
    USER = 4
    ACCESSED = 0x20
    DIRTY = 0x40


cdef class PhysicalMemory:
    """The monitor's frames and the guest's RAM in one host-physical address space.

    ``ram_size`` is in bytes and a multiple of 4096. Raises HostError if the host has not got it.

    Stores into guest RAM that are made here, by the monitor, are noted frame by frame in a *dirty map*;
    what the guest itself stores to is found in the shadow tables (see paging/dirty.py).

    Frames may be *protected*: what they hold is kept elsewhere before anything is stored to them (see
    paging/copy_on_write.py).

    Frames of guest RAM may be *absent*: not here yet (see paging/absent.py). Whatever loads from one here, or
    stores to one, waits until it has been fetched; ``ram_view`` alone does not look.
    """

    def __cinit__(self, uint64_t ram_size):
        if ram_size == 0 or ram_size % PAGE:
            raise ValueError("the size of guest RAM is a positive multiple of 4096")
        self.ram_fd = -1
        self.ram_size = ram_size
        self.limit = MONITOR + ram_size
        self.monitor_base = <uint8_t *>mmap_(NULL, MONITOR, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if <void *>self.monitor_base == MAP_FAILED:
            self.monitor_base = NULL
            raise HostError(f"no memory for the monitor's 16 MiB: {os.strerror(errno)}")
        try:
            self.ram_fd = os.memfd_create("guest-ram", os.MFD_CLOEXEC)
            os.ftruncate(self.ram_fd, ram_size)
        except OSError as error:
            raise HostError(f"no memory for {ram_size >> 20} MiB of guest RAM: {error.strerror}") from None
        self.ram_base = <uint8_t *>mmap_(NULL, ram_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                                         self.ram_fd, 0)
        if <void *>self.ram_base == MAP_FAILED:
            self.ram_base = NULL
            raise HostError(f"no memory for {ram_size >> 20} MiB of guest RAM: {os.strerror(errno)}")
        self.nested.monitor = self.monitor_base
        self.nested.ram = self.ram_base
        self.dirty = <uint8_t *>calloc(ram_size >> 12, 1)
        if self.dirty == NULL:
            raise HostError(f"no memory for the dirty map of {ram_size >> 20} MiB")
        self.guarded = <uint8_t *>calloc(ram_size >> 12, 1)
        if self.guarded == NULL:
            raise HostError(f"no memory for the map of protected frames of {ram_size >> 20} MiB")

    def __dealloc__(self):
        free(self.dirty)
        free(self.guarded)
        free(self.absent)
        if self.monitor_base != NULL:
            munmap(self.monitor_base, MONITOR)
        if self.ram_base != NULL:
            munmap(self.ram_base, self.ram_size)
        if self.ram_fd >= 0:
            os.close(self.ram_fd)

    @property
    def file(self):
        """The file descriptor of guest RAM (a memfd), owned by this object."""
        return self.ram_fd

    def present(self):
        """A byte for each frame of guest RAM: 0 where nobody has ever looked or written, so it is all zero.

        The kernel knows (lseek(2), SEEK_DATA), and asking it makes it provide nothing.
        """
        frames = bytearray(self.ram_size // PAGE)
        end, at = self.ram_size, 0
        while at < end:
            try:
                at = os.lseek(self.ram_fd, at, os.SEEK_DATA)
                hole = os.lseek(self.ram_fd, at, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == ENXIO:
                    break  # nothing but a hole up to the end
                raise
            frames[at // PAGE : hole // PAGE] = b"\1" * (hole // PAGE - at // PAGE)
            at = hole
        return bytes(frames)

    def ram_view(self):
        """A writable memoryview of guest RAM, indexed by guest-physical address."""
        return _View(self, False).view

    def monitor_view(self):
        """A writable memoryview of the monitor's frames, indexed by host-physical address."""
        return _View(self, True).view

    cdef uint8_t *at(self, uint64_t hpa, uint64_t size) except NULL:
        if hpa < MONITOR:
            if hpa + size <= MONITOR:
                return self.monitor_base + hpa
        elif hpa + size <= self.limit:
            if self.absent != NULL and size:
                self.await_frames((hpa - MONITOR) >> 12, (hpa - MONITOR + size - 1) >> 12)
            return self.ram_base + (hpa - MONITOR)
        raise AddressError(f"host-physical address {hpa:#x} is outside the machine's memory")

    cdef uint8_t *target(self, uint64_t hpa, uint64_t size) except NULL:
        """As ``at``, for a store."""
        cdef uint8_t *address = self.at(hpa, size)
        cdef uint64_t frame
        if hpa >= MONITOR and size:
            for frame in range((hpa - MONITOR) >> 12, ((hpa - MONITOR + size - 1) >> 12) + 1):
                if self.guarded[frame]:
                    self.keep(frame)
                self.dirty[frame] = 1
        return address

    def mark_dirty(self, uint64_t gpa, uint64_t size):
        """Somebody is about to store to guest RAM through ``ram_view``."""
        self.target(MONITOR + gpa, size)

    def take_dirty(self):
        """The dirty map, a byte for each frame; from now on all are clean."""
        cdef uint64_t frames = self.ram_size >> 12
        taken = bytearray((<char *>self.dirty)[:frames])
        memset(self.dirty, 0, frames)
        return taken

    # ---------------------------------------------------------------- protected frames

    def protect(self, const uint8_t[::1] frames not None, uint8_t[::1] kept not None):
        """From now on, the frames whose byte in ``frames`` is not 0 are protected.

        What they hold goes into ``kept``, which is as long as RAM, at the latest when something is about to be
        stored to them. No shadow entry may allow a store to them any more when the guest runs again.
        """
        cdef Py_ssize_t i, count = self.ram_size >> 12
        if frames.shape[0] != count or kept.shape[0] != <Py_ssize_t>self.ram_size:
            raise ValueError(f"{frames.shape[0]} marks and {kept.shape[0]} bytes for {count} frames")
        if self.kept is not None:
            raise ValueError("frames are protected already")
        self.kept = kept
        self.kept_base = &kept[0]
        for i in range(count):
            self.guarded[i] = 1 if frames[i] else 0

    def unprotect(self):
        """No frame is protected any more; ``kept`` is let go of."""
        memset(self.guarded, 0, self.ram_size >> 12)
        self.kept = None
        self.kept_base = NULL

    def put_back(self):
        """Every frame was protected: those that were stored to since hold again what was kept of them."""
        cdef uint64_t frame
        for frame in range(self.ram_size >> 12 if self.kept is not None else 0):
            if not self.guarded[frame]:
                memcpy(self.ram_base + frame * PAGE, self.kept_base + frame * PAGE, PAGE)
                self.dirty[frame] = 1

    def keep_frames(self, uint64_t first, uint64_t count):
        """Copy those of ``count`` frames that are protected, and let them be stored to; from any thread."""
        cdef uint64_t frame
        if first > self.ram_size >> 12 or count > (self.ram_size >> 12) - first:
            raise ValueError(f"{count} frames from {first} on are not in RAM")
        if self.kept is not None:
            kept = self.kept  # as long as we copy
            with nogil:
                for frame in range(first, first + count):
                    self.keep(frame)

    cpdef bint protected(self, uint64_t frame) except? -1:
        """Is this frame protected, so that no shadow entry may allow a store to it?"""
        return frame < self.ram_size >> 12 and self.guarded[frame]

    cpdef int about_to_store(self, uint64_t frame) except -1:
        """The guest is about to get an entry through which it can store to this frame."""
        if frame < self.ram_size >> 12:
            self.keep(frame)
        return 0

    cdef void keep(self, uint64_t frame) noexcept nogil:
        if self.guarded[frame] and claim(&self.guarded[frame]):
            memcpy(self.kept_base + frame * PAGE, self.ram_base + frame * PAGE, PAGE)
            settle(&self.guarded[frame])

    # ---------------------------------------------------------------- absent frames

    def set_absent(self, const uint8_t[::1] frames not None, fetch):
        """The frames whose byte in ``frames`` is not 0 are absent.

        Whoever needs one calls ``fetch(frame)`` first, which returns when the frame is here or raises.
        """
        if <uint64_t>frames.shape[0] != self.ram_size >> 12:
            raise ValueError(f"{frames.shape[0]} marks for {self.ram_size >> 12} frames")
        self.forget_absent()
        cdef uint8_t *absent = <uint8_t *>calloc(frames.shape[0], 1)
        cdef Py_ssize_t i
        if absent == NULL:
            raise HostError(f"no memory for the map of absent frames of {self.ram_size >> 20} MiB")
        for i in range(frames.shape[0]):
            if frames[i]:
                absent[i] = 1
                self.absent_count += 1
        self.absent = absent
        self.fetch_frame = fetch
        if not self.absent_count:
            self.forget_absent()

    def forget_absent(self):
        """No frame is absent any more: RAM is what it is."""
        free(self.absent)
        self.absent = NULL
        self.absent_count = 0
        self.fetch_frame = None

    def absent_map(self):
        """A byte for each frame, not 0 if it is absent."""
        cdef uint64_t frames = self.ram_size >> 12
        return bytes(frames) if self.absent == NULL else <bytes>(<char *>self.absent)[:frames]

    cpdef bint is_absent(self, uint64_t frame) except? -1:
        return self.absent != NULL and frame < self.ram_size >> 12 and self.absent[frame]

    def admit(self, uint64_t first, uint64_t count, const uint8_t[::1] data=None):
        """``count`` frames are here: those of them that were absent take their contents from ``data``.

        None: RAM already holds what they should. What a protected frame held is kept first. Frames that were
        not absent stay as they are. Returns how many were absent. No one sees a frame that is half filled.
        """
        cdef uint64_t frame
        cdef uint64_t admitted = 0
        if first + count > self.ram_size >> 12 or (data is not None and <uint64_t>data.shape[0] != count * PAGE):
            raise ValueError(f"{count} frames from {first} on do not fit")
        if self.absent == NULL:
            return 0
        for frame in range(first, first + count):
            if self.absent[frame]:
                if data is not None:
                    if self.guarded[frame]:
                        self.keep(frame)
                    memcpy(self.ram_base + frame * PAGE, &data[(frame - first) * PAGE], PAGE)
                self.absent[frame] = 0
                admitted += 1
        self.absent_count -= admitted
        if not self.absent_count:
            self.forget_absent()
        return admitted

    cpdef int bring_in(self, uint64_t hpa) except -1:
        """Wait until the frame at ``hpa`` is here: it is about to be mapped."""
        self.at(hpa, 1)
        return 0

    cdef int await_frames(self, uint64_t first, uint64_t last) except -1:
        cdef uint64_t frame
        for frame in range(first, last + 1):
            if self.absent != NULL and self.absent[frame]:
                fetch = self.fetch_frame
                fetch(frame)
                if self.absent != NULL and self.absent[frame]:
                    raise AddressError(f"frame {frame:#x} of guest RAM was fetched and has not come")
        return 0

    # ---------------------------------------------------------------- loads and stores

    cpdef uint32_t load8(self, uint64_t hpa) except? 0xdeadbeef:
        return self.at(hpa, 1)[0]

    cpdef uint32_t load16(self, uint64_t hpa) except? 0xdeadbeef:
        cdef uint16_t value
        memcpy(&value, self.at(hpa, 2), 2)
        return value

    cpdef uint32_t load32(self, uint64_t hpa) except? 0xdeadbeef:
        cdef uint32_t value
        memcpy(&value, self.at(hpa, 4), 4)
        return value

    cpdef uint64_t load64(self, uint64_t hpa) except? 0xdeadbeef:
        cdef uint64_t value
        memcpy(&value, self.at(hpa, 8), 8)
        return value

    cpdef int store8(self, uint64_t hpa, uint32_t value) except -1:
        self.target(hpa, 1)[0] = value
        return 0

    cpdef int store16(self, uint64_t hpa, uint32_t value) except -1:
        cdef uint16_t v = value
        memcpy(self.target(hpa, 2), &v, 2)
        return 0

    cpdef int store32(self, uint64_t hpa, uint32_t value) except -1:
        memcpy(self.target(hpa, 4), &value, 4)
        return 0

    cpdef int store64(self, uint64_t hpa, uint64_t value) except -1:
        memcpy(self.target(hpa, 8), &value, 8)
        return 0

    def read(self, uint64_t hpa, uint64_t size):
        """``size`` bytes from host-physical address ``hpa``."""
        if size == 0:
            return b""
        return self.at(hpa, size)[:size]

    def write(self, uint64_t hpa, const uint8_t[::1] data):
        """Store bytes at ``hpa``. Translated code is not invalidated: see ``Paging.about_to_write``."""
        if data.shape[0]:
            memcpy(self.target(hpa, data.shape[0]), &data[0], data.shape[0])

    cpdef int clear_frame(self, uint64_t hpa) except -1:
        memset(self.at(hpa, PAGE), 0, PAGE)
        return 0

    cpdef uint64_t shadow_entry(self, uint64_t root, uint32_t gva) except? 0xdeadbeef:
        """The shadow page-table entry of ``gva`` under the PDPT at ``root``; 0 if there is none.

        If ``root`` is that of the nested tables: what it would be.
        """
        if root == self.nested.root:
            return nested_entry(&self.nested, gva)
        cdef uint64_t entry = (<uint64_t *>(self.monitor_base + root))[gva >> 30]
        if not entry & PRESENT:
            return 0
        entry = (<uint64_t *>(self.monitor_base + (entry & ADDRESS)))[gva >> 21 & 511]
        if not entry & PRESENT:
            return 0
        return (<uint64_t *>(self.monitor_base + (entry & ADDRESS)))[gva >> 12 & 511]

    cdef uint64_t *shadow_slot(self, uint64_t root, uint32_t gva):
        cdef uint64_t entry = (<uint64_t *>(self.monitor_base + root))[gva >> 30]
        if not entry & PRESENT:
            return NULL
        entry = (<uint64_t *>(self.monitor_base + (entry & ADDRESS)))[gva >> 21 & 511]
        if not entry & PRESENT:
            return NULL
        return (<uint64_t *>(self.monitor_base + (entry & ADDRESS))) + (gva >> 12 & 511)

    cpdef uint64_t shadow_slot_address(self, uint64_t root, uint32_t gva) except? 0xdeadbeef:
        """Host-physical address of the last-level entry for ``gva``; 0 if there is no table for it."""
        cdef uint64_t *slot = self.shadow_slot(root, gva)
        return <uint64_t>(<uint8_t *>slot - self.monitor_base) if slot != NULL else 0

    cpdef int64_t translate(self, uint64_t root, uint32_t gva, bint write, bint user) except? -2:
        """Host-physical address of ``gva`` if the shadow tables allow the access now, else -1.

        Sets the shadow entry's Accessed and, for a write, Dirty bit, as the CPU would. (Under nested paging these
        bits are the guest's, and where one is missing the answer is -1.)
        """
        cdef uint64_t *slot
        cdef uint64_t need = PRESENT | (WRITABLE if write else 0) | (USER if user else 0)
        cdef uint64_t entry
        if root == self.nested.root:
            entry = nested_entry(&self.nested, gva)
            if entry & (need | ACCESSED) != need | ACCESSED:
                return -1
            return (entry & ADDRESS) | (gva & 0xfff)
        slot = self.shadow_slot(root, gva)
        if slot == NULL or (slot[0] & need) != need:
            return -1
        slot[0] |= ACCESSED | (DIRTY if write else 0)
        return (slot[0] & ADDRESS) | (gva & 0xfff)

    cpdef int64_t load_virtual(self, uint64_t root, uint32_t gva, uint32_t size, bint user) except? -2:
        """Load 1, 2 or 4 bytes at ``gva`` through the shadow tables; -1 if they do not allow it (a
        missing entry, or bytes in two pages)."""
        cdef int64_t hpa
        cdef uint32_t value = 0
        if (gva & 0xfff) + size > PAGE:
            return -1
        hpa = self.translate(root, gva, False, user)
        if hpa < 0:
            return -1
        memcpy(&value, self.at(hpa, size), size)
        return value

    cpdef bint store_virtual(self, uint64_t root, uint32_t gva, uint32_t size, uint32_t value, bint user) except? -1:
        """Store 1, 2 or 4 bytes at ``gva`` through the shadow tables; False if they do not allow it."""
        cdef int64_t hpa
        if (gva & 0xfff) + size > PAGE:
            return False
        hpa = self.translate(root, gva, True, user)
        if hpa < 0:
            return False
        memcpy(self.target(hpa, size), &value, size)
        return True

    cpdef uint64_t fetch(self, uint64_t root, uint32_t gva) except? 0xdeadbeef:
        """The eight bytes at ``gva`` as a number, those in a further page that is not mapped as 0."""
        cdef uint64_t entry = self.shadow_entry(root, gva)
        cdef uint64_t value = 0
        cdef uint32_t here = PAGE - (gva & 0xfff)
        if not entry & PRESENT:
            return 0
        if here >= 8:
            memcpy(&value, self.at((entry & ADDRESS) | (gva & 0xfff), 8), 8)
            return value
        memcpy(&value, self.at((entry & ADDRESS) | (gva & 0xfff), here), here)
        entry = self.shadow_entry(root, (gva + here) & 0xffffffff)
        if entry & PRESENT:
            memcpy((<uint8_t *>&value) + here, self.at(entry & ADDRESS, 8), 8 - here)
        return value

    cpdef uint32_t rewrite_mappings(self, uint64_t root, uint64_t frame, uint64_t clear, uint64_t set) except? 0xdeadbeef:
        """In every present entry under ``root`` that maps ``frame``: clear and set these bits.

        Returns how many entries changed. The tables are scanned; there is no reverse map to keep.
        """
        cdef uint32_t changed = 0
        cdef int i, j, k
        cdef uint64_t old, new
        cdef uint64_t *pdpt = <uint64_t *>self.at(root, 32)
        cdef uint64_t *directory
        cdef uint64_t *table
        for i in range(4):
            if not pdpt[i] & PRESENT:
                continue
            directory = <uint64_t *>self.at(pdpt[i] & ADDRESS, PAGE)
            for j in range(512):
                if not directory[j] & PRESENT:
                    continue
                table = <uint64_t *>self.at(directory[j] & ADDRESS, PAGE)
                for k in range(512):
                    old = table[k]
                    if (old & ADDRESS) == frame and old & PRESENT:
                        new = (old & ~clear) | set
                        if new != old:
                            table[k] = new
                            changed += 1
        return changed

    cpdef int note_dirty(self, uint64_t slot) except -1:
        """A shadow entry is about to be replaced: note in the dirty map what was stored to through it."""
        cdef uint64_t entry = self.load64(slot)
        cdef uint64_t hpa = entry & ADDRESS
        if entry & (PRESENT | DIRTY) == PRESENT | DIRTY and MONITOR <= hpa < self.limit:
            self.dirty[(hpa - MONITOR) >> 12] = 1
        return 0

    cpdef int collect_dirty(self, uint64_t table) except -1:
        """Note in the dirty map what was stored to through a shadow table's 512 entries; make these clean."""
        cdef uint64_t *entries = <uint64_t *>self.at(table, PAGE)
        cdef int i
        for i in range(512):
            if entries[i] & DIRTY:
                self.note_dirty(table + 8 * i)
                entries[i] &= ~<uint64_t>DIRTY
        return 0


cdef class _View:
    """Keeps the memory alive as long as a memoryview of it exists."""

    cdef PhysicalMemory memory
    cdef bint monitor
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]

    def __cinit__(self, PhysicalMemory memory, bint monitor):
        self.memory = memory
        self.monitor = monitor

    @property
    def view(self):
        return memoryview(self)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self.shape[0] = MONITOR if self.monitor else self.memory.ram_size
        self.strides[0] = 1
        buffer.buf = self.memory.monitor_base if self.monitor else self.memory.ram_base
        buffer.format = "B"
        buffer.internal = NULL
        buffer.itemsize = 1
        buffer.len = self.shape[0]
        buffer.ndim = 1
        buffer.obj = self
        buffer.readonly = 0
        buffer.shape = self.shape
        buffer.strides = self.strides
        buffer.suboffsets = NULL

    def __releasebuffer__(self, Py_buffer *buffer):
        pass
