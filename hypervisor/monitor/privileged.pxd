from libc.stdint cimport uint32_t, uint64_t
from hypervisor.monitor.decode cimport Instruction, Operand, is_memory, load_operand, operand_address, store_general
from hypervisor.monitor.vcpu cimport VirtualCpu
cimport cython


cpdef cli(VirtualCpu v, Instruction i)
cpdef sti(VirtualCpu v, Instruction i)
cpdef require_kernel(VirtualCpu v)
@cython.locals(target=Operand, source=Operand)
cpdef mov(VirtualCpu v, Instruction i)
@cython.locals(target=Operand)
cpdef pop(VirtualCpu v, Instruction i)
cpdef uint32_t read_control(VirtualCpu v, uint32_t number) except? 0xdeadbeef
cpdef write_control(VirtualCpu v, uint32_t number, uint32_t value)
@cython.locals(now=uint64_t)
cpdef uint64_t time_stamp(VirtualCpu v) except? 0xdeadbeef
@cython.locals(value=uint64_t)
cpdef rdtsc(VirtualCpu v, Instruction i)
@cython.locals(following=uint32_t, vector=uint32_t)
cpdef software_interrupt(VirtualCpu v, Instruction i)

# What is imported from hardware/x86.py, as C integers (but IF, a keyword here).
cdef uint32_t CR0_BITS, CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR0_TS, EAX, EBX, ECX, EDX
cdef uint32_t IOPL, OF, VM, CR4_BITS, CR4_RELOADS_PAGING, CR4_TSD, MSR_TSC
cdef uint32_t CONTROL_REGISTER, DEBUG_REGISTER, GENERAL_REGISTER, MEMORY, SEGMENT_REGISTER
