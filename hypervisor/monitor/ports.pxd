from libc.stdint cimport uint32_t
from hypervisor.monitor.decode cimport Instruction
from hypervisor.monitor.vcpu cimport VirtualCpu
cimport cython


cpdef check_permission(VirtualCpu v, uint32_t port, uint32_t size)
cpdef uint32_t accumulator_size(Instruction i) except? 0xdeadbeef
cpdef uint32_t port_of(VirtualCpu v, Instruction i) except? 0xdeadbeef
@cython.locals(port=uint32_t, size=uint32_t, value=uint32_t, mask=uint32_t)
cpdef input_port(VirtualCpu v, Instruction i)
@cython.locals(port=uint32_t, size=uint32_t, value=uint32_t)
cpdef output_port(VirtualCpu v, Instruction i)

# What is imported from hardware/x86.py, as C integers (but IF, a keyword here).
cdef uint32_t DF, DS, EAX, ECX, EDI, EDX, ES, ESI, TF, VM
