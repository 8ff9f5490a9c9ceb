from libc.stdint cimport uint32_t, uint64_t
from hypervisor.monitor.vcpu cimport VirtualCpu
cimport cython


cdef class Instruction:
    cdef public uint32_t gva
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
    @cython.locals(gva=uint32_t, raw=uint64_t, found=Instruction)
    cpdef Instruction at(self, VirtualCpu v)
    cpdef Instruction decode(self, VirtualCpu v, uint32_t gva)


cdef uint32_t CACHE_SIZE

# What is imported from hardware/x86.py, as C integers (but IF, a keyword here).
cdef uint32_t CS, DS, D_BIG, ES, FS, GS, SS
