from libc.stdint cimport uint32_t
from hypervisor.monitor.vcpu cimport Hidden, VirtualCpu
cimport cython


@cython.locals(tss=Hidden, wide=uint32_t, offset=uint32_t)
cpdef tuple inner_stack(VirtualCpu v, uint32_t level)
