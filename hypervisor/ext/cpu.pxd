cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from hypervisor.ext.memory cimport Nested, PhysicalMemory


cdef struct Block:
    uint64_t key
    uint32_t second
    uint32_t count


cdef struct Recent:
    uint32_t pc
    uint32_t size
    uint32_t count
    uint32_t generation


cdef struct Core:
    void *uc
    uint8_t *env
    uint8_t *monitor
    uint8_t *ram
    uint64_t root
    Nested *nested
    uint64_t retired
    uint64_t limit
    uint32_t generation
    uint32_t block_pc
    uint32_t block_size
    uint32_t block_length
    uint64_t last_block
    uint32_t block_count
    uint64_t fence
    uint32_t exit_code
    uint64_t exits[512]
    uint32_t new_pc
    uint32_t new_size
    int stop
    int running
    int announcing
    int lent
    int noted
    uint32_t kernel_ring
    uint32_t fpu_selector
    uint32_t noted_pc
    int holding
    int window
    uint32_t *interrupt_request
    uint64_t runs
    void *thread
    Block *table
    uint64_t table_mask
    uint64_t table_used
    uint64_t translated
    Recent recent[4096]
    Recent taken[1024]
    uint16_t one_byte[256]
    uint16_t two_byte[256]
    uint64_t sites[8192]
    uint32_t sites_used
    uint32_t hooked[8192]
    uint32_t hook_count
    uint8_t *unchecked
    uint8_t no_flag
    uint8_t may_leave_checks


@cython.final
cdef class Cpu:
    cdef Core core
    cdef readonly PhysicalMemory memory
    cdef readonly bint exact
    cdef readonly str error
    cdef uint32_t error_code_offset
    cdef dict hooks
    cdef uint64_t edge_hook, block_hook, intr_hook
    cdef check(self, int error, str what)
    cdef refuse(self, str what)
    cdef locate_registers(self)
    cdef uint32_t env_size(self)
    cdef list writable_ranges(self)
    cdef enter_guest_mode(self, uint64_t intercepts, uint32_t controls, uint32_t debugs, bint nested)
    cdef locate_interrupt_request(self, uint64_t intercepts)
    cdef map_side(self)
    cdef Nested *to_side(self)
    cdef void from_side(self, uint64_t root, Nested *nested)
    cdef check_layout(self)
    cdef void set_table(self, int at, uint32_t selector, uint64_t base, uint32_t limit, uint32_t flags)
    cdef locate_error_code(self)
    cdef try_unchecked(self)
    cdef uint32_t probe_hook(self)
    cdef try_giving_up(self)
    cdef locate_fpu_selector(self)
    cdef probe_run(self, uint32_t eip)
    cdef uc_flush(self)
    cdef uint32_t not_run(self, uint32_t at)
    cdef bint request(self, uint32_t at, void *block)
    cdef bint may_translate(self, uint32_t at)
    cdef uint32_t step_count(self, uint32_t first, uint32_t last)
    cdef uint32_t length_at(self, uint32_t at)
    cdef void take_flags_back(self)
    cdef on_the_side(self, bytes instruction, uint32_t cr0)
    cdef uint32_t run_once(self, uint64_t fence) except? 0xdeadbeef
    cpdef uint32_t run(self, uint64_t fence) except? 0xdeadbeef
    cpdef uint32_t general(self, uint32_t index)
    cpdef void set_general(self, uint32_t index, uint32_t value) noexcept
    cpdef uint32_t get_eip(self)
    cpdef uint32_t linear_eip(self)
    cpdef void set_eip(self, uint32_t value) noexcept
    cpdef uint32_t get_eflags(self)
    cpdef void set_eflags(self, uint32_t value) noexcept
    cpdef uint64_t get_retired(self)
    cpdef void set_retired(self, uint64_t value) noexcept
    cpdef uint32_t error_code(self)
    cpdef uint32_t fault_address(self)
    cpdef bint trap_flag(self)
    cpdef bint shadowed(self)
    cpdef void set_shadowed(self, bint on) noexcept
    cpdef void set_window(self, bint wanted) noexcept
    cpdef uint32_t selector(self, uint32_t index)
    cpdef uint32_t segment_base(self, uint32_t index)
    cpdef uint32_t segment_limit(self, uint32_t index)
    cpdef uint32_t segment_flags(self, uint32_t index)
    cpdef void set_segment(self, uint32_t index, uint32_t selector, uint32_t base, uint32_t limit, uint32_t flags)
    cpdef void set_lent(self, bint lent)
    cpdef void flush_tlb(self)
    cpdef void set_root(self, uint64_t root)
    cpdef void load_guest_tables(self, uint32_t cr0, uint32_t cr3, uint32_t cr4)
    cpdef void load_root(self, uint64_t root)
