"""The functions of libunicorn, taken from the wheel's own shared library. Included by cpu.pyx."""

cdef extern from "<unicorn/unicorn.h>" nogil:
    ctypedef struct uc_engine:
        pass
    ctypedef struct uc_tb:
        uint64_t pc
        uint16_t icount
        uint16_t size
    ctypedef struct uc_x86_mmr:
        uint16_t selector
        uint64_t base
        uint32_t limit
        uint32_t flags
    ctypedef struct uc_x86_msr:
        uint32_t rid
        uint64_t value
    int UC_ARCH_X86, UC_MODE_32, UC_PROT_ALL, UC_CPU_X86_QEMU64
    int UC_HOOK_INTR, UC_HOOK_BLOCK, UC_HOOK_CODE, UC_HOOK_EDGE_GENERATED
    int UC_CTL_CPU_MODEL, UC_CTL_UC_USE_EXITS, UC_CTL_UC_EXITS, UC_CTL_TB_REMOVE_CACHE
    int UC_CTL_TB_REQUEST_CACHE, UC_CTL_TB_FLUSH, UC_CTL_TLB_FLUSH, UC_CTL_TCG_BUFFER_SIZE
    int UC_CTL_WRITE "UC_CTL_WRITE" (int type, int n)
    int UC_CTL_READ_WRITE "UC_CTL_READ_WRITE" (int type, int n)
    int UC_X86_REG_EAX, UC_X86_REG_ECX, UC_X86_REG_EDX, UC_X86_REG_EBX, UC_X86_REG_ESP, UC_X86_REG_EBP
    int UC_X86_REG_ESI, UC_X86_REG_EDI, UC_X86_REG_EFLAGS, UC_X86_REG_GDTR, UC_X86_REG_CR0, UC_X86_REG_CR3
    int UC_X86_REG_CR4, UC_X86_REG_CS, UC_X86_REG_SS, UC_X86_REG_MSR, UC_X86_REG_FP0, UC_X86_REG_FPCW
    int UC_X86_REG_FPSW, UC_X86_REG_MXCSR, UC_X86_REG_XMM0, UC_X86_REG_FIP
    int UC_X86_REG_FCS, UC_X86_REG_FDP, UC_X86_REG_FDS, UC_X86_REG_FOP

ctypedef int (*open_f)(int, int, uc_engine **) noexcept nogil
ctypedef int (*close_f)(uc_engine *) noexcept nogil
ctypedef int (*ctl_f)(uc_engine *, int, ...) noexcept nogil
ctypedef int (*map_f)(uc_engine *, uint64_t, size_t, uint32_t, void *) noexcept nogil
ctypedef int (*reg_f)(uc_engine *, int, void *) noexcept nogil
ctypedef int (*start_f)(uc_engine *, uint64_t, uint64_t, uint64_t, size_t) noexcept nogil
ctypedef int (*stop_f)(uc_engine *) noexcept nogil
ctypedef int (*hook_f)(uc_engine *, uint64_t *, int, void *, void *, uint64_t, uint64_t, ...) noexcept nogil
ctypedef int (*unhook_f)(uc_engine *, uint64_t) noexcept nogil
ctypedef const char *(*strerror_f)(int) noexcept nogil
ctypedef void (*leave_f)(void *) noexcept nogil

cdef open_f uc_open
cdef close_f uc_close
cdef ctl_f uc_ctl
cdef map_f uc_mem_map_ptr
cdef reg_f uc_reg_read
cdef reg_f uc_reg_write
cdef start_f uc_emu_start
cdef stop_f uc_emu_stop
cdef hook_f uc_hook_add
cdef unhook_f uc_hook_del
cdef strerror_f uc_strerror
cdef leave_f leave_run = NULL       # QEMU's cpu_loop_exit
cdef bint loaded = False
cdef uint32_t no_exit_request = 0    # its offset in uc_engine; 0: not found


def _load():
    """Find libunicorn in its wheel and take its functions."""
    global uc_open, uc_close, uc_ctl, uc_mem_map_ptr, uc_reg_read, uc_reg_write, uc_emu_start, uc_emu_stop
    global uc_hook_add, uc_hook_del, uc_strerror, leave_run, loaded
    import unicorn

    cdef void *handle
    cdef dict functions = {}
    path = os.path.join(os.path.dirname(unicorn.__file__), "lib", "libunicorn.so.2")
    handle = dlopen(os.fsencode(path), RTLD_NOW)
    if handle == NULL:
        raise HostError(f"cannot load {path}: is the unicorn package complete?")
    for name in ("uc_open", "uc_close", "uc_ctl", "uc_mem_map_ptr", "uc_reg_read", "uc_reg_write", "uc_emu_start",
                 "uc_emu_stop", "uc_hook_add", "uc_hook_del", "uc_strerror"):
        functions[name] = <uintptr_t>dlsym(handle, name.encode())
        if not functions[name]:
            raise HostError(f"{path} has no function {name}: unicorn 2.1 is needed")
    uc_open = <open_f><uintptr_t>functions["uc_open"]
    uc_close = <close_f><uintptr_t>functions["uc_close"]
    uc_ctl = <ctl_f><uintptr_t>functions["uc_ctl"]
    uc_mem_map_ptr = <map_f><uintptr_t>functions["uc_mem_map_ptr"]
    uc_reg_read = <reg_f><uintptr_t>functions["uc_reg_read"]
    uc_reg_write = <reg_f><uintptr_t>functions["uc_reg_write"]
    uc_emu_start = <start_f><uintptr_t>functions["uc_emu_start"]
    uc_emu_stop = <stop_f><uintptr_t>functions["uc_emu_stop"]
    uc_hook_add = <hook_f><uintptr_t>functions["uc_hook_add"]
    uc_hook_del = <unhook_f><uintptr_t>functions["uc_hook_del"]
    uc_strerror = <strerror_f><uintptr_t>functions["uc_strerror"]
    find_exit_checks(<const uint8_t *>dlsym(handle, b"check_exit_request_x86_64"))
    leave_run = <leave_f>dlsym(handle, b"cpu_loop_exit_x86_64")
    if leave_run == NULL or not hv_redirect_giving_up(handle):
        raise HostError(f"{path} cannot be kept from ending the process (abort, cpu_loop_exit)")
    loaded = True


cdef void find_exit_checks(const uint8_t *function) noexcept:
    """Where ``no_exit_request`` lies in uc_engine: the translator's function that emits the check begins with

        mov rsi, [rdi + ...]; cmp byte ptr [rsi + no_exit_request], 0

    Whether it does what we believe is tried in ``try_unchecked``. If not, all checks stay.
    """
    global no_exit_request
    if (function != NULL and function[0] == 0x48 and function[1] == 0x8b and function[2] == 0xb7
            and function[7] == 0x80 and function[8] == 0xbe and function[13] == 0):
        memcpy(&no_exit_request, function + 9, 4)
