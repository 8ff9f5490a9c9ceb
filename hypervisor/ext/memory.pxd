from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t


cdef class PhysicalMemory:
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
