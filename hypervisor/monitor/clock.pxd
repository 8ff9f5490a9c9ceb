from hypervisor.ext.cpu cimport Cpu


cdef class VirtualClock:
    cdef public Cpu cpu
    cdef public bint exact
    cdef public long long now
    cdef public long long skipped
    cdef object _started
    cpdef long long update(self) except? -1
    cpdef long long count_at(self, long long when) except? -1


cdef long long NS_PER_INSTRUCTION
