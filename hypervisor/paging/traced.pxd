from libc.stdint cimport uint32_t, uint64_t
from hypervisor.ext.mappings cimport Mappings
from hypervisor.paging.shadow cimport ShadowPaging
cimport cython


cdef class Table:
    cdef public uint32_t key
    cdef public long long gpa
    cdef public uint64_t low
    cdef public uint64_t high
    cdef public bint hooked
    cdef public uint32_t stores
    cdef public list links


cdef class Space:
    cdef public uint32_t gpa
    cdef public uint64_t root
    cdef public list directories
    cdef public bint hooked
    cdef public uint32_t stores
    cdef public dict links


cdef class TracedShadow(ShadowPaging):
    cdef public Mappings mappings
    cdef public list free
    cdef public list roots
    cdef public dict spaces
    cdef public dict tables
    cdef public dict watchers
    cdef public list released
    cdef public tuple releasing
    cdef public Space space
    cpdef enter_space(self)
    cpdef Space space_of(self, uint32_t gpa)
    cpdef forget(self)
    @cython.locals(table=Table, at=uint64_t)
    cpdef Table link(self, Space space, uint32_t index)
    @cython.locals(entry=uint32_t)
    cpdef uint32_t key_of(self, Space space, uint32_t index) except? 0xdeadbeef
    cpdef Table new_table(self, uint32_t key)
    @cython.locals(frame=uint64_t)
    cpdef uint64_t directory_entry(self, Space space, uint32_t index) except? 0xdeadbeef
    cpdef trace(self, uint32_t gpa, object shadow)
    @cython.locals(table=Table)
    cpdef bint relink(self, Space space, uint32_t index) except? -1
    cpdef untrace(self, uint32_t frame)
    @cython.locals(at=uint64_t, table=Table)
    cpdef unlink(self, Space space, uint32_t index)
    @cython.locals(hpa=uint64_t)
    cpdef justify(self, Table table)

# What is imported from entries.py and physical.py, and constants of the module, as C integers.
cdef uint32_t ACCESSED, DIRTY, LARGE, PRESENT, USER, WRITABLE, LINK, RIGHTS, CACHEABLE, UNPAGED, FLOOD
cdef long long NOWHERE, RAM_BASE
