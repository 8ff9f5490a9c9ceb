from libc.stdint cimport uint32_t, uint64_t
from hypervisor.monitor.stack cimport Stack
from hypervisor.monitor.vcpu cimport VirtualCpu, descriptor_base, descriptor_limit
from hypervisor.monitor.decode cimport Instruction
from hypervisor.monitor.segments cimport check_stack_segment
cimport cython


@cython.locals(descriptor=uint64_t, high=uint32_t, dpl=uint32_t, error=uint32_t)
cpdef uint64_t check_code(VirtualCpu v, uint32_t selector, uint32_t cpl, bint rpl_counts) except? 0xdeadbeef
cpdef check_offset(uint64_t descriptor, uint32_t eip)
@cython.locals(low=uint32_t, high=uint32_t)
cpdef enter(VirtualCpu v, uint32_t selector, uint64_t descriptor, uint32_t eip)
@cython.locals(stack=Stack, eip=uint32_t, selector=uint32_t, flags=uint32_t, size=uint32_t)
cpdef interrupt_return(VirtualCpu v, Instruction i)
cpdef set_flags(VirtualCpu v, uint32_t flags, uint32_t size, uint32_t changes)
@cython.locals(descriptor=uint64_t, ss_descriptor=uint64_t, low=uint32_t, high=uint32_t, rpl=uint32_t, dpl=uint32_t, error=uint32_t, changes=uint32_t, esp=uint32_t, ss=uint32_t, ss_high=uint32_t, mask=uint32_t)
cpdef return_to(VirtualCpu v, Stack stack, uint32_t selector, uint32_t eip, uint32_t size, object flags, uint32_t release)
@cython.locals(high=uint32_t, index=uint32_t)
cpdef drop_inner_segments(VirtualCpu v)

# What is imported from hardware/x86.py, as C integers (but IF, a keyword here).
cdef uint32_t AC, CS, DF, DS, D_BIG, D_CODE, D_CONFORMING, D_PRESENT, D_SEGMENT, ES
cdef uint32_t ESP, FS, GS, ID, IOPL, NT, SS, TF
cdef uint32_t VM, ALWAYS, INTERRUPTS
cdef long long MASK_32
