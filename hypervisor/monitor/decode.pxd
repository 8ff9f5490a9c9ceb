from libc.stdint cimport uint32_t, uint64_t
from hypervisor.monitor.vcpu cimport VirtualCpu
cimport cython


cdef class Operand:
    cdef public uint32_t kind
    cdef public uint32_t number
    cdef public uint32_t value
    cdef public uint32_t base
    cdef public uint32_t index
    cdef public uint32_t scale
    cdef public uint32_t displacement
    cdef public uint32_t segment


cdef class Instruction:
    cdef public uint32_t gva
    cdef public bint big
    cdef public str mnemonic
    cdef public str text
    cdef public str name
    cdef public uint32_t size
    cdef public list operands
    cdef public uint32_t opcode
    cdef public bytes raw
    cdef public uint32_t operand_size
    cdef public uint32_t address_size
    cdef public object segment_override
    cdef public bint repeat
    cdef public bint lock
    cdef public object handler
    cdef public uint64_t value
    cdef public uint64_t mask


cdef class Decoder:
    cdef public dict handlers
    cdef public dict capstones
    cdef public list cache
    @cython.locals(gva=uint32_t, raw=uint64_t, big=bint, found=Instruction)
    cpdef Instruction at(self, VirtualCpu v)
    cpdef Instruction decode(self, VirtualCpu v, uint32_t gva, bint big)


@cython.locals(offset=uint32_t)
cpdef uint32_t effective_offset(VirtualCpu v, Instruction i, Operand operand) except? 0xdeadbeef
cpdef uint32_t operand_address(VirtualCpu v, Instruction i, Operand operand) except? 0xdeadbeef
cpdef bint is_memory(Operand operand) except? -1
@cython.locals(value=uint32_t)
cpdef uint32_t load_operand(VirtualCpu v, Instruction i, Operand operand, uint32_t size) except? 0xdeadbeef
cpdef store_general(VirtualCpu v, uint32_t number, uint32_t size, uint32_t value)

cdef uint32_t CACHE_SIZE, NO_REGISTER, _MEMORY
cdef long long MASK_32

# What is imported from hardware/x86.py, as C integers (but IF, a keyword here).
cdef uint32_t CS, DS, D_BIG, ES, FS, GS, SS
