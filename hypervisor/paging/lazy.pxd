from libc.stdint cimport uint32_t, uint64_t
from hypervisor.paging.shadow cimport ShadowPaging
cimport cython


cdef class LazyShadow(ShadowPaging):
    cdef public list directories
    cdef public list free
    cdef public dict tables
    cdef public set large

# What is imported from entries.py and physical.py, as C integers.
cdef uint64_t LINK, PRESENT
cdef long long RAM_BASE
