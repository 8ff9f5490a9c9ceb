from libc.stdint cimport uint32_t, uint64_t
from hypervisor.ext.cpu cimport Cpu
from hypervisor.monitor.clock cimport VirtualClock
from hypervisor.monitor.decode cimport Decoder, Instruction, Operand, operand_address
from hypervisor.monitor.vcpu cimport VirtualCpu
cimport cython


cdef class Monitor:
    cdef public VirtualCpu v
    cdef public Cpu cpu
    cdef public object devices
    cdef public VirtualClock clock
    cdef public bint exact
    cdef public Decoder decoder
    cdef public object sites
    cdef public object stop
    cdef public object before_entry
    cdef public object sleep
    cdef public bint stop_wanted
    cdef public long long deadline
    cdef public bint pending
    cdef public bint windowed
    cdef public long long near
    cdef public long long seam
    cdef public long long seam_from
    cdef public bint alone
    cdef public long long begun
    cdef public bint finishing
    cdef public dict exits
    @cython.locals(cpu=Cpu, clock=VirtualClock, handlers=list, usual=bint, code=uint32_t, fence="long long", retired="long long")
    cpdef run(self, long long until=*)
    cpdef refresh(self)
    @cython.locals(cpu=Cpu, code=uint32_t)
    cpdef uint32_t enter(self, long long fence) except? 0xdeadbeef
    cpdef bint must_step(self) except? -1
    @cython.locals(v=VirtualCpu, cpu=Cpu, before="long long", flags=uint32_t, opcode=uint32_t, code=uint32_t, after=uint32_t)
    cpdef uint32_t step(self) except? 0xdeadbeef
    @cython.locals(raw=uint64_t)
    cpdef uint32_t opcode(self) except? 0xdeadbeef
    @cython.locals(instruction=Instruction)
    cpdef emulate(self)
    @cython.locals(instruction=Instruction)
    cpdef on_site(self)
    @cython.locals(v=VirtualCpu, cpu=Cpu, trapping=bint)
    cpdef carry_out(self, Instruction instruction)
    @cython.locals(v=VirtualCpu, cpu=Cpu, error=uint32_t, eip=uint32_t, gva=uint32_t, write=bint, user=bint, fetch=bint, entry="long long")
    cpdef on_page_fault(self)
    @cython.locals(cpu=Cpu)
    cpdef on_nested_fault(self)
    @cython.locals(instruction=Instruction, source=Operand, value=uint32_t, trapping=bint)
    cpdef bint store_entry(self, uint32_t gva, uint64_t hpa) except? -1
    cpdef retire(self, bint trapping)
    cpdef count(self)


cdef long long NEVER_DUE, NO_SEAM
cdef uint32_t FENCE
cdef uint32_t PAGE_FAULT_EXIT, NESTED_FAULT_EXIT, UNTRANSLATABLE
cdef uint32_t GENERAL_PROTECTION_EXIT

# What is imported from hardware/x86.py, as C integers (but IF, a keyword here).
cdef uint32_t ESP, SS, TF, EXIT_SCAN, STEPPED, VMEXIT_DB, EXIT_FENCE, IMMEDIATE
cdef long long MASK_32, NOWHERE
