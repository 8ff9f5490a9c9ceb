from libc.stdint cimport uint32_t, uint64_t
from hypervisor.monitor.vcpu cimport VirtualCpu, descriptor_base, descriptor_limit
from hypervisor.monitor.stack cimport Stack
from hypervisor.monitor.segments cimport check_stack_segment
from hypervisor.monitor.tasks cimport inner_stack
cimport cython


cpdef deliver(VirtualCpu v, uint32_t vector, object error, bint software, object following=*, bint restarts=*)
@cython.locals(eip=uint32_t, named=uint32_t, low=uint32_t, high=uint32_t, kind=uint32_t, size=uint32_t, offset=uint32_t)
cpdef enter_gate(VirtualCpu v, uint32_t vector, object error, bint software, object following, uint32_t resume)
@cython.locals(named=uint32_t, low=uint32_t, high=uint32_t, dpl=uint32_t, flags=uint32_t, from_8086=bint, inner=bint, stack_low=uint32_t, stack_high=uint32_t, ss=uint32_t, esp=uint32_t, pointer=uint64_t, descriptor=uint64_t, stack=Stack, index=uint32_t)
cpdef enter_handler(VirtualCpu v, uint32_t selector, uint32_t offset, uint32_t size, bint clears, uint32_t eip, object error, uint32_t resume)

# What is imported from hardware/x86.py, as C integers (but IF, a keyword here).
cdef uint32_t CS, DS, D_BIG, D_CODE, D_CONFORMING, D_PRESENT, D_SEGMENT, ES, ESP, FS
cdef uint32_t GS, NT, RF, SS, TF, VM, GATE, WIDE, TRAP, TASK_GATE, INTERRUPTS
cdef long long MASK_32
