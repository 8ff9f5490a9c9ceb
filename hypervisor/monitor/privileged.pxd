from hypervisor.monitor.decode cimport Instruction
from hypervisor.monitor.vcpu cimport VirtualCpu


cpdef cli(VirtualCpu v, Instruction i)
cpdef sti(VirtualCpu v, Instruction i)
cpdef require_kernel(VirtualCpu v)
