from libc.stdint cimport uint32_t, uint64_t
from hypervisor.paging.base cimport Paging
from hypervisor.paging.walk cimport Translation
cimport cython


cdef class NestedPaging(Paging):
    cdef public set regions
    cdef public set storable
    @cython.locals(page=uint32_t, hpa="long long", slot=uint64_t)
    cpdef nested_fault(self, uint32_t gpa, bint write, uint32_t eip)
    @cython.locals(frame=uint32_t)
    cpdef allow(self, uint32_t page, uint64_t hpa, bint write)
    @cython.locals(region=uint32_t, table=uint64_t, n=uint32_t, page=uint32_t, hpa="long long", entry=uint64_t)
    cpdef uint64_t slot(self, uint32_t gpa) except? 0xdeadbeef
    @cython.locals(hpa=uint64_t)
    cpdef translated_new(self, uint32_t gva, uint32_t size)
    cpdef make_code(self, uint32_t frame)
    @cython.locals(slot=uint64_t)
    cpdef make_data(self, uint32_t frame)

# What is imported from entries.py, base.py and physical.py, and constants of the module, as C integers.
cdef uint64_t PRESENT, USER, WRITABLE, READABLE, STORABLE, CODE
cdef long long NOWHERE, NO_FRAME, RAM_BASE
cdef uint32_t ENTRIES, FAULT_BITS
