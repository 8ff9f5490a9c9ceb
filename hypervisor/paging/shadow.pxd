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
    @cython.locals(old=uint64_t)
    cpdef fill(self, uint64_t slot, uint64_t entry, Translation page, bint write, bint fetch)
    @cython.locals(page=Translation, hpa="long long")
    cpdef long long host_address(self, uint32_t gva, bint write, bint user) except? -2
