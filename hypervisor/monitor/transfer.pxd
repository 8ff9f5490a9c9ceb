from libc.stdint cimport uint32_t, uint64_t
from hypervisor.monitor.vcpu cimport VirtualCpu, descriptor_limit
from hypervisor.monitor.decode cimport Instruction
from hypervisor.monitor.segments cimport check_stack_segment
cimport cython


cdef class Stack:
    cdef public VirtualCpu v
    cdef public uint32_t base
    cdef public uint32_t offset
    cdef public uint32_t mask
    cdef public bint user
    cpdef push(self, uint32_t size, uint32_t value)
    cpdef uint32_t pop(self, uint32_t size) except? 0xdeadbeef
    cpdef skip(self, uint32_t count)


@cython.locals(descriptor=uint64_t, high=uint32_t, dpl=uint32_t, error=uint32_t)
cpdef uint64_t check_code(VirtualCpu v, uint32_t selector, uint32_t cpl, bint rpl_counts) except? 0xdeadbeef
@cython.locals(low=uint32_t, high=uint32_t)
cpdef enter(VirtualCpu v, uint32_t selector, uint64_t descriptor, uint32_t eip)
@cython.locals(stack=Stack, eip=uint32_t, selector=uint32_t, flags=uint32_t, size=uint32_t)
cpdef interrupt_return(VirtualCpu v, Instruction i)
cpdef set_flags(VirtualCpu v, uint32_t flags, uint32_t size, uint32_t changes)
@cython.locals(descriptor=uint64_t, ss_descriptor=uint64_t, low=uint32_t, high=uint32_t, rpl=uint32_t, dpl=uint32_t, error=uint32_t, changes=uint32_t, esp=uint32_t, ss=uint32_t, ss_high=uint32_t, mask=uint32_t)
cpdef return_to(VirtualCpu v, Stack stack, uint32_t selector, uint32_t eip, uint32_t size, object flags, uint32_t release)
@cython.locals(high=uint32_t, index=uint32_t)
cpdef drop_inner_segments(VirtualCpu v)
cpdef uint32_t stack_base(uint32_t low, uint32_t high) except? 0xdeadbeef

# What is imported from hardware/x86.py, as C integers (but IF, a keyword here).
cdef uint32_t AC, CS, DF, DS, D_BIG, D_CODE, D_CONFORMING, D_PRESENT, D_SEGMENT, ES
cdef uint32_t ESP, FS, GS, ID, IOPL, NT, SS, TF, VIF, VIP
cdef uint32_t VM, ALWAYS, INTERRUPTS
cdef long long MASK_32
