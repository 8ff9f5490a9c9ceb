from libc.stdint cimport uint32_t, uint64_t
from hypervisor.monitor.vcpu cimport Hidden, VirtualCpu
cimport cython


@cython.locals(tss=Hidden, wide=uint32_t, offset=uint32_t, ss=uint64_t, esp=uint64_t)
cpdef uint64_t inner_stack(VirtualCpu v, uint32_t level) except? 0xdeadbeef

# What is imported from hardware/x86.py, as C integers (but IF, a keyword here).
cdef uint32_t CR0_TS, CS, DS, D_CODE, D_CONFORMING, D_PRESENT, D_SEGMENT, ES, FS, GS
cdef uint32_t NT, SS, VM
cdef long long MASK_32
