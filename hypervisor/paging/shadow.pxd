from libc.stdint cimport uint32_t, uint64_t
from hypervisor.ext.cpu cimport Cpu
from hypervisor.ext.memory cimport PhysicalMemory
from hypervisor.paging.physical cimport PhysicalMap
from hypervisor.paging.walk cimport GuestTables, Translation
cimport cython


cdef class ShadowPaging:
    cdef public PhysicalMemory memory
    cdef public Cpu cpu
    cdef public PhysicalMap physical
    cdef public GuestTables guest
    cdef public bytearray code
    cdef public bytearray inspected
    cdef public list loans
    cdef public uint64_t fills
    cdef public uint64_t root
    cdef public list directories
    cdef public list free
    cdef public dict tables
    cdef public set large
    cpdef uint64_t slot(self, uint32_t gva) except? 0xdeadbeef
    @cython.locals(page=Translation, slot=uint64_t, entry=uint64_t, hpa="long long", frame=uint32_t)
    cpdef fault(self, uint32_t gva, bint write, bint user, bint fetch, uint32_t eip)
    @cython.locals(guest=GuestTables, memory=PhysicalMemory, upper=uint32_t, lower=uint32_t, both=uint32_t, group=uint32_t, slot=uint64_t, table=uint32_t, n=uint32_t, hpa="long long", entry=uint64_t)
    cpdef prefill(self, uint32_t gva)
    @cython.locals(before="long long")
    cpdef bint harmless(self, uint32_t gva, uint32_t frame) except? -1
    cpdef long long code_at(self, long long gva) except? -2
    @cython.locals(old=uint64_t)
    cpdef fill(self, uint64_t slot, uint64_t entry, Translation page, bint write, bint fetch)
    @cython.locals(page=Translation, hpa="long long")
    cpdef long long host_address(self, uint32_t gva, bint write, bint user) except? -2

# What is imported from entries.py and physical.py, and constants of the module, as C integers.
cdef uint64_t ACCESSED, ADDRESS, DIRTY, NX, PRESENT, USER, WRITABLE, LINK, CACHEABLE
cdef long long NOWHERE, RAM_BASE
cdef uint32_t NEIGHBOURS, INSPECTED, HARMFUL, ENDS_HARMFUL
