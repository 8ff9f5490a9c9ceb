cdef class PhysicalMap:
    cdef public unsigned long long size
    cpdef long long hpa(self, unsigned long long gpa) except? -2

# Constants that nobody imports, as C integers.
cdef long long _BASE
cdef unsigned long long HOLE, TEXT, ROM, HIGH
