from libc.stdint cimport uint32_t, uint64_t
from hypervisor.ext.cpu cimport Cpu
from hypervisor.ext.memory cimport PhysicalMemory
from hypervisor.paging.base cimport Paging
cimport cython


cdef class Hidden:
    cdef public uint32_t selector
    cdef public uint32_t base
    cdef public uint32_t limit
    cdef public uint32_t high


cdef class VirtualCpu:
    cdef public Cpu cpu
    cdef public PhysicalMemory memory
    cdef public Paging paging
    cdef public object bus
    cdef public object now
    cdef public bytes rings
    cdef public uint32_t cpl
    cdef public uint32_t flags
    cdef public uint32_t native
    cdef public uint32_t forced
    cdef public bint holding
    cdef public long long fence
    cdef public bint halted
    cdef public uint32_t cr0
    cdef public uint32_t cr2
    cdef public uint32_t cr3
    cdef public uint32_t cr4
    cdef public list debug
    cdef public uint32_t gdt_base
    cdef public uint32_t gdt_limit
    cdef public uint32_t idt_base
    cdef public uint32_t idt_limit
    cdef public Hidden ldtr
    cdef public Hidden tr
    cdef public dict msrs
    cpdef uint32_t get_eflags(self) except? 0xdeadbeef
    cpdef set_eflags(self, uint32_t value)
    cpdef uint32_t get_iopl(self) except? 0xdeadbeef
    cpdef bint in_virtual_8086(self) except? -1
    cpdef uint32_t get_stack_mask(self) except? 0xdeadbeef
    cpdef bint is_user(self) except? -1
    cpdef bint interrupts_on(self) except? -1
    cpdef bint may_change_interrupts(self) except? -1
    cpdef set_interrupts(self, bint on)
    cpdef bint shadowed(self) except? -1
    cpdef uint32_t linear(self, uint32_t index, long long offset) except? 0xdeadbeef
    @cython.locals(value="long long")
    cpdef uint32_t load(self, long long gva, uint32_t size, bint user=*) except? 0xdeadbeef
    cpdef store(self, long long gva, uint32_t size, long long value, bint user=*)
    @cython.locals(mask=uint32_t)
    cpdef set_stack(self, long long offset)
    @cython.locals(cpu=Cpu)
    cpdef tuple segment(self, uint32_t index)
    @cython.locals(selector=uint32_t)
    cpdef uint32_t segment_selector(self, uint32_t index) except? 0xdeadbeef
    @cython.locals(high=uint32_t)
    cpdef uint32_t segment_high(self, uint32_t index) except? 0xdeadbeef
    @cython.locals(dpl=uint32_t)
    cpdef set_segment(self, uint32_t index, uint32_t selector, uint32_t base, uint32_t limit, uint32_t high)
    cpdef load_segment(self, uint32_t index, uint32_t selector, uint32_t low, uint32_t high)
    @cython.locals(base=uint32_t, limit=uint32_t, offset=uint32_t, low=uint64_t, high=uint64_t)
    cpdef uint64_t descriptor(self, uint32_t selector, object vector=*) except? 0xdeadbeef
    cpdef uint32_t touch_descriptor(self, uint32_t selector, uint32_t high) except? 0xdeadbeef
    cpdef store_descriptor_high(self, uint32_t selector, uint32_t high)


cpdef uint32_t descriptor_base(uint32_t low, uint32_t high) except? 0xdeadbeef
@cython.locals(limit=uint32_t)
cpdef uint32_t descriptor_limit(uint32_t low, uint32_t high) except? 0xdeadbeef

# What is imported from hardware/x86.py, as C integers (but IF, a keyword here).
cdef uint32_t AC, CR0_BITS, CR0_ET, CS, DF, D_ACCESSED, D_AVL, D_BIG, D_GRANULAR, D_SEGMENT
cdef uint32_t ESP, ID, IOPL, NT, SS, TF, VM
cdef uint32_t KNOWN_FLAGS
cdef long long MASK_32
