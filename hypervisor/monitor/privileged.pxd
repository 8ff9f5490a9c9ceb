from libc.stdint cimport uint32_t
from hypervisor.monitor.decode cimport Instruction
from hypervisor.monitor.vcpu cimport VirtualCpu


cpdef cli(VirtualCpu v, Instruction i)
cpdef sti(VirtualCpu v, Instruction i)
cpdef require_kernel(VirtualCpu v)

# What is imported from hardware/x86.py, as C integers (but IF, a keyword here).
cdef uint32_t CR0_BITS, CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR0_TS, EAX, EBX, ECX, EDX
cdef uint32_t IOPL, OF, VIF, VIP, VM
