from libc.stdint cimport uint32_t, uint64_t
from hypervisor.ext.cpu cimport Cpu
from hypervisor.ext.memory cimport PhysicalMemory
from hypervisor.paging.physical cimport PhysicalMap
from hypervisor.paging.walk cimport GuestTables, Translation
cimport cython


cdef class Paging:
    cdef public PhysicalMemory memory
    cdef public Cpu cpu
    cdef public PhysicalMap physical
    cdef public GuestTables guest
    cdef public bytearray code
    cdef public list loans
    cdef public list exposed
    cdef public uint64_t fills
    cdef public uint64_t returned
    cdef public uint64_t root
    cpdef set_control(self, uint32_t cr0, uint32_t cr3, uint32_t cr4)
    cpdef invalidate(self, uint32_t gva)
    cpdef drop(self)
    cpdef long long fault(self, uint32_t gva, bint write, bint user, bint fetch, uint32_t eip, bint emulates) except? -2
    cpdef nested_fault(self, uint32_t gpa, bint write, uint32_t eip)
    cpdef translated_new(self, uint32_t gva, uint32_t size)
    cpdef make_data(self, uint32_t frame)
    cpdef put(self, uint64_t slot, uint64_t entry)
    cpdef uint64_t slot_in_use(self, uint32_t address) except? 0xdeadbeef
    cpdef took_back(self, uint32_t frame)
    cpdef reach(self, uint32_t gva, Translation page, bint write)
    @cython.locals(page=Translation, hpa="long long")
    cpdef long long host_address(self, uint32_t gva, bint write, bint user) except? -2
    cpdef store_entry(self, uint64_t hpa, uint32_t value)
    cpdef settle(self)
    cpdef bint executes_from(self, uint32_t frame, uint32_t eip) except? -1
    cpdef lend(self, uint32_t address, uint64_t slot, uint64_t entry, uint64_t after, long long frame)
    cpdef return_loans(self)

# What is imported from entries.py and physical.py, as C integers.
cdef uint64_t ADDRESS
cdef long long NOWHERE, RAM_BASE
