from libc.stdint cimport uint32_t, uint64_t
from hypervisor.ext.memory cimport PhysicalMemory
from hypervisor.paging.base cimport Paging
from hypervisor.paging.walk cimport GuestTables, Translation
cimport cython


cdef class ShadowPaging(Paging):
    cdef public bytearray traced
    cdef public dict translated
    cpdef uint64_t slot(self, uint32_t gva, bint large) except? 0xdeadbeef
    cpdef uint32_t rewrite(self, uint32_t frame, uint64_t clear, uint64_t bits) except? 0xdeadbeef
    cpdef bint release(self, uint32_t frame, uint32_t eip) except? -1
    cpdef bint follows(self, uint32_t frame) except? -1
    cpdef retrace(self, uint32_t frame)
    @cython.locals(page=Translation, slot=uint64_t, entry=uint64_t, hpa="long long", frame=uint32_t)
    cpdef long long fault(self, uint32_t gva, bint write, bint user, bint fetch, uint32_t eip, bint emulates) except? -2
    @cython.locals(executing=bint)
    cpdef bint give_up(self, uint32_t frame, uint32_t eip) except? -1
    @cython.locals(guest=GuestTables, memory=PhysicalMemory, upper=uint32_t, lower=uint32_t, both=uint32_t, group=uint32_t, table=uint32_t, n=uint32_t, hpa="long long", entry=uint64_t)
    cpdef prefill(self, uint32_t gva, uint64_t slot)
    @cython.locals(old=uint64_t)
    cpdef fill(self, uint64_t slot, uint64_t entry, Translation page, bint write, bint fetch)
    cpdef bint unwatched(self, uint32_t frame) except? -1
    @cython.locals(frame=uint32_t, entry=uint64_t)
    cpdef reach(self, uint32_t gva, Translation page, bint write)

# What is imported from entries.py, base.py and physical.py, and constants of the module, as C integers.
cdef uint64_t ACCESSED, ADDRESS, DIRTY, NX, PRESENT, USER, WRITABLE, CACHEABLE
cdef long long NOWHERE, NO_FRAME, RAM_BASE
cdef uint32_t NEIGHBOURS
