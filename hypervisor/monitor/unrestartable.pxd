from libc.stdint cimport uint32_t, uint64_t
from hypervisor.ext.cpu cimport Cpu
from hypervisor.monitor.decode cimport Instruction, Operand, operand_address
from hypervisor.monitor.vcpu cimport VirtualCpu
cimport cython


@cython.locals(cpu=Cpu, user=bint, gva=uint32_t, whole=uint64_t, low=uint32_t, high=uint32_t, equal=bint, new_low=uint64_t, new_high=uint64_t)
cpdef compare_and_exchange(VirtualCpu v, Instruction i)

# What is imported from hardware/x86.py, as C integers.
cdef uint32_t EAX, EBX, ECX, EDX, ZF
