cdef class PhysicalMap:
    cdef public unsigned long long size
    cpdef long long hpa(self, unsigned long long gpa) except? -2
