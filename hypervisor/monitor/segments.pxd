from libc.stdint cimport uint32_t
from hypervisor.monitor.vcpu cimport VirtualCpu, descriptor_base, descriptor_limit
cimport cython


@cython.locals(low=uint32_t, high=uint32_t, error=uint32_t)
cpdef load_data_segment(VirtualCpu v, uint32_t index, uint32_t selector)
@cython.locals(low=uint32_t, high=uint32_t, error=uint32_t)
cpdef tuple check_stack_segment(VirtualCpu v, uint32_t selector, uint32_t cpl, object vector=*)
cpdef load_any(VirtualCpu v, uint32_t index, uint32_t selector)
@cython.locals(low=uint32_t, high=uint32_t)
cpdef load_stack_segment(VirtualCpu v, uint32_t selector)

# What is imported from hardware/x86.py, as C integers (but IF, a keyword here).
cdef uint32_t CS, DS, D_CODE, D_CONFORMING, D_PRESENT, D_READABLE, D_SEGMENT, D_WRITABLE, ESP, SS
