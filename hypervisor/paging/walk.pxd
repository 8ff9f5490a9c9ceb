from libc.stdint cimport uint32_t
from hypervisor.ext.memory cimport PhysicalMemory
from hypervisor.paging.physical cimport PhysicalMap


cdef class Translation:
    cdef public uint32_t gpa
    cdef public bint writable
    cdef public bint user
    cdef public bint dirty
    cdef public bint large


cdef class GuestTables:
    cdef public PhysicalMemory memory
    cdef public PhysicalMap physical
    cdef public bytearray code
    cdef public object before_store
    cdef public bint enabled
    cdef public bint write_protect
    cdef public bint large_pages
    cdef public uint32_t directory
    cpdef bint set_control(self, uint32_t cr0, uint32_t cr3, uint32_t cr4) except? -1
    cpdef uint32_t load(self, uint32_t gpa) except? 0xdeadbeef
    cpdef uint32_t set_bits(self, uint32_t gpa, uint32_t entry, uint32_t bits) except? 0xdeadbeef
    cpdef Translation walk(self, uint32_t gva, bint write, bint user)
    cpdef bint reads_unseen(self, uint32_t gva, bint user) except? -1
    cpdef check(self, uint32_t rights, bint write, bint user, uint32_t reason, uint32_t gva)

# What is imported from entries.py and physical.py, and constants of the module, as C integers.
cdef uint32_t ACCESSED, DIRTY, LARGE, PRESENT, USER, WRITABLE, ONES, CR0_WP, CR0_PG, CR4_PSE
cdef long long NOWHERE
