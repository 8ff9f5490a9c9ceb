from libc.stdint cimport uint32_t
from hypervisor.monitor.vcpu cimport VirtualCpu


cdef class Stack:
    cdef public VirtualCpu v
    cdef public uint32_t base
    cdef public uint32_t offset
    cdef public uint32_t mask
    cdef public bint user
    cpdef push(self, uint32_t size, uint32_t value)
    cpdef uint32_t peek(self, uint32_t depth, uint32_t size) except? 0xdeadbeef
    cpdef uint32_t pop(self, uint32_t size) except? 0xdeadbeef
    cpdef skip(self, uint32_t count)

# What is imported from hardware/x86.py, as C integers.
cdef uint32_t ESP, SS
