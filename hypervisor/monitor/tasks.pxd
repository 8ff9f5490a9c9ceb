from libc.stdint cimport uint32_t
from hypervisor.monitor.vcpu cimport Hidden, VirtualCpu
cimport cython


@cython.locals(tss=Hidden, wide=uint32_t, offset=uint32_t)
cpdef tuple inner_stack(VirtualCpu v, uint32_t level)

# What is imported from hardware/x86.py, as C integers (but IF, a keyword here).
cdef uint32_t CR0_TS, CS, DS, D_CODE, D_CONFORMING, D_PRESENT, D_SEGMENT, ES, FS, GS
cdef uint32_t NT, SS, VM
