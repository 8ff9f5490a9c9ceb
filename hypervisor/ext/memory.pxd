from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t


# Nested paging (AMD APM 2, 15.25): the guest's tables, each address in which goes through the nested ones. These are
# 32-bit tables, since VMRUN is executed without PAE.
cdef struct Nested:
    uint64_t root           # host-physical address of the nested directory; 0: there is none
    uint8_t *monitor
    uint8_t *ram
    uint32_t directory      # the guest's
    bint enabled            # the guest's CR0.PG
    bint large              # and CR4.PSE


cdef inline uint32_t nested_frame(Nested *nested, uint32_t gpa) noexcept nogil:
    """The nested entry of a guest-physical address, or 0."""
    cdef uint32_t entry = (<uint32_t *>(nested.monitor + nested.root))[gpa >> 22]
    if not entry & 1:
        return 0
    return (<uint32_t *>(nested.monitor + (entry & ~<uint32_t>0xfff)))[gpa >> 12 & 1023]


cdef inline uint32_t nested_load(Nested *nested, uint32_t gpa) noexcept nogil:
    """Load an entry of the guest's tables; 0 (not present) where the nested tables have nothing yet."""
    cdef uint32_t entry = nested_frame(nested, gpa)
    cdef uint32_t hpa = (entry & ~<uint32_t>0xfff) | (gpa & 0xffc)
    if not entry & 1:
        return 0
    return (<uint32_t *>(nested.monitor + hpa if hpa < 16 << 20 else nested.ram + (hpa - (16 << 20))))[0]


cdef inline uint64_t nested_entry(Nested *nested, uint32_t gva) noexcept nogil:
    """What a shadow entry of ``gva`` would be (PAE): present, writable and user as both sets of tables allow.

    Accessed tells whether the guest's tables have it set: if not, a walk has still to set it. Without Dirty there it
    is not writable.
    """
    cdef uint32_t gpa = gva & ~<uint32_t>0xfff
    cdef uint32_t rights = 0x66
    cdef uint32_t upper, lower
    if nested.enabled:
        upper = nested_load(nested, nested.directory + (gva >> 22) * 4)
        if not upper & 1:
            return 0
        if upper & 0x80 and nested.large:
            gpa = (upper & ~<uint32_t>0x3fffff) | (gva & <uint32_t>0x3ff000)
            rights = upper
        else:
            lower = nested_load(nested, (upper & ~<uint32_t>0xfff) + (gva >> 12 & 1023) * 4)
            if not lower & 1:
                return 0
            gpa = lower & ~<uint32_t>0xfff
            rights = (upper | 0x40) & lower
    lower = nested_frame(nested, gpa)
    if not lower & 1:
        return 0
    return (lower & ~<uint32_t>0xfff) | 1 | (rights & 0x24) | (lower & 2 if rights & 0x42 == 0x42 else 0)


cdef inline bint nested_walkable(Nested *nested, uint32_t gva) noexcept nogil:
    """Would a walk for ``gva``, which may set bits in the guest's tables, find all that it needs in the nested ones?"""
    cdef uint32_t upper
    if nested.enabled:
        if nested_frame(nested, nested.directory + (gva >> 22) * 4) & 3 != 3:
            return False
        upper = nested_load(nested, nested.directory + (gva >> 22) * 4)
        if not (upper & 0x80 and nested.large) and nested_frame(nested, upper & ~<uint32_t>0xfff) & 3 != 3:
            return False
    return nested_entry(nested, gva) != 0


cdef class PhysicalMemory:
    cdef Nested nested
    cdef uint8_t *monitor_base
    cdef uint8_t *ram_base
    cdef uint8_t *dirty
    cdef uint8_t *guarded
    cdef uint8_t *kept_base
    cdef object kept
    cdef uint8_t *absent
    cdef object fetch_frame
    cdef readonly uint64_t absent_count
    cdef readonly uint64_t ram_size
    cdef readonly uint64_t limit
    cdef int ram_fd
    cdef uint8_t *at(self, uint64_t hpa, uint64_t size) except NULL
    cdef uint8_t *target(self, uint64_t hpa, uint64_t size) except NULL
    cpdef bint protected(self, uint64_t frame) except? -1
    cpdef int about_to_store(self, uint64_t frame) except -1
    cdef void keep(self, uint64_t frame) noexcept nogil
    cdef int await_frames(self, uint64_t first, uint64_t last) except -1
    cpdef bint is_absent(self, uint64_t frame) except? -1
    cpdef int bring_in(self, uint64_t hpa) except -1
    cdef uint64_t *shadow_slot(self, uint64_t root, uint32_t gva)
    cpdef uint32_t load8(self, uint64_t hpa) except? 0xdeadbeef
    cpdef uint32_t load16(self, uint64_t hpa) except? 0xdeadbeef
    cpdef uint32_t load32(self, uint64_t hpa) except? 0xdeadbeef
    cpdef uint64_t load64(self, uint64_t hpa) except? 0xdeadbeef
    cpdef int store8(self, uint64_t hpa, uint32_t value) except -1
    cpdef int store16(self, uint64_t hpa, uint32_t value) except -1
    cpdef int store32(self, uint64_t hpa, uint32_t value) except -1
    cpdef int store64(self, uint64_t hpa, uint64_t value) except -1
    cpdef int clear_frame(self, uint64_t hpa) except -1
    cpdef uint64_t shadow_entry(self, uint64_t root, uint32_t gva) except? 0xdeadbeef
    cpdef uint64_t shadow_slot_address(self, uint64_t root, uint32_t gva) except? 0xdeadbeef
    cpdef int64_t translate(self, uint64_t root, uint32_t gva, bint write, bint user) except? -2
    cpdef int64_t load_virtual(self, uint64_t root, uint32_t gva, uint32_t size, bint user) except? -2
    cpdef bint store_virtual(self, uint64_t root, uint32_t gva, uint32_t size, uint32_t value, bint user) except? -1
    cpdef uint64_t fetch(self, uint64_t root, uint32_t gva) except? 0xdeadbeef
    cpdef uint32_t rewrite_mappings(self, uint64_t root, uint64_t frame, uint64_t clear, uint64_t set) except? 0xdeadbeef
    cpdef int note_dirty(self, uint64_t slot) except -1
    cpdef int collect_dirty(self, uint64_t table) except -1
