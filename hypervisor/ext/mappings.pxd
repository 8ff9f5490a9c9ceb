from libc.stdint cimport uint32_t, uint64_t, int64_t

from hypervisor.ext.memory cimport PhysicalMemory


cdef class Mappings:
    cdef PhysicalMemory memory
    cdef uint32_t *heads
    cdef uint32_t *following
    cdef uint32_t *preceding
    cdef int64_t frame_of(self, uint64_t entry) noexcept
    cdef void remove(self, uint64_t slot, int64_t frame) noexcept
    cdef void insert(self, uint64_t slot, int64_t frame) noexcept
    cpdef int put(self, uint64_t slot, uint64_t entry) except -1
    cpdef int clear_table(self, uint64_t table) except -1
    cpdef uint32_t rewrite(self, uint32_t frame, uint64_t clear, uint64_t set) except? 0xdeadbeef
    cpdef bint keep_justified(self, uint64_t slot, uint32_t entry, uint32_t rights, bint write_protect) except? -1
    cpdef int keep_justified_table(self, uint64_t table, uint64_t guest_table, uint32_t rights, bint write_protect) except -1

