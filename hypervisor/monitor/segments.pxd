from libc.stdint cimport uint32_t, uint64_t
from hypervisor.monitor.decode cimport Instruction, Operand, load_operand, operand_address, store_general
from hypervisor.monitor.vcpu cimport VirtualCpu, descriptor_base, descriptor_limit
cimport cython


@cython.locals(descriptor=uint64_t, high=uint32_t, error=uint32_t, dpl=uint32_t)
cpdef load_data_segment(VirtualCpu v, uint32_t index, uint32_t selector)
@cython.locals(descriptor=uint64_t, high=uint32_t, error=uint32_t)
cpdef uint64_t check_stack_segment(VirtualCpu v, uint32_t selector, uint32_t cpl, object vector=*) except? 0xdeadbeef
cpdef load_any(VirtualCpu v, uint32_t index, uint32_t selector)
@cython.locals(descriptor=uint64_t, high=uint32_t)
cpdef load_stack_segment(VirtualCpu v, uint32_t selector)
@cython.locals(target=Operand, index=uint32_t, selector=uint32_t)
cpdef mov_to_segment(VirtualCpu v, Instruction i)
@cython.locals(target=Operand, index=uint32_t, selector=uint32_t, top=uint32_t, mask=uint32_t)
cpdef pop_segment(VirtualCpu v, Instruction i)

# What is imported from hardware/x86.py, as C integers (but IF, a keyword here).
cdef uint32_t CS, DS, D_CODE, D_CONFORMING, D_PRESENT, D_READABLE, D_SEGMENT, D_WRITABLE, ESP, SS
cdef long long MASK_32
