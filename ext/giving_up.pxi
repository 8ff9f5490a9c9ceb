"""When libunicorn gives up. Included by cpu.pyx.

QEMU's translator calls abort() where it finds that it has made a mistake, and a guest can bring that about: BT, BTS,
BTR or BTC with a LOCK prefix and a register operand is an invalid opcode (Intel SDM 2, LOCK), which QEMU forgets,
and then uses an address that it never computed. (All one-byte and two-byte opcodes were tried with all prefixes in
32-bit code, and there is no other; 16-bit code was not swept.) That would be the end of the monitor, and of all its
guests. So we enter a function of ours in the library's linkage table (System V ABI, AMD64 supplement, 5.2: calls into
other libraries jump through slots that the dynamic linker fills in) in the place of abort(). Where a guest runs on this
thread, it leaves the run by the way that QEMU's own exceptions take; where we asked for a translation, it returns there.
Nothing of the block that was being translated is in use yet, and the translator begins each one with a clean slate,
as it must when its buffer overflows in the middle of one. What it prints before, where nobody would understand it, is
left out.
"""

cdef extern from *:
    """
    #include <link.h>
    #include <setjmp.h>
    #include <stdarg.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <unistd.h>

    static __thread void (*hv_given_up)(void *);    /* set while a guest runs on this thread */
    static __thread void *hv_giver;

    static void hv_abort(void)
    {
        if (hv_given_up)
            hv_given_up(hv_giver);      /* does not return */
        abort();
    }

    static int hv_fprintf(FILE *stream, const char *format, ...)
    {
        va_list arguments;
        int written;
        if (hv_given_up)
            return 0;
        va_start(arguments, format);
        written = vfprintf(stream, format, arguments);
        va_end(arguments);
        return written;
    }

    static void hv_arm(void (*given_up)(void *), void *giver)
    {
        hv_giver = giver;
        hv_given_up = given_up;
    }

    /* Let calls of the function `name` in a library go to `function`. Returns how many slots there were for it. */
    static int hv_redirect(void *library, const char *name, void *function)
    {
        struct link_map *map;
        const ElfW(Rela) *slots = NULL;
        const ElfW(Sym) *symbols = NULL;
        const char *names = NULL;
        const ElfW(Dyn) *entry;
        size_t size = 0, i, page = (size_t)sysconf(_SC_PAGESIZE);
        int found = 0;
        if (dlinfo(library, RTLD_DI_LINKMAP, &map))
            return 0;
        for (entry = map->l_ld; entry->d_tag != DT_NULL; entry++) {
            if (entry->d_tag == DT_JMPREL)
                slots = (const ElfW(Rela) *)entry->d_un.d_ptr;
            else if (entry->d_tag == DT_PLTRELSZ)
                size = entry->d_un.d_val;
            else if (entry->d_tag == DT_SYMTAB)
                symbols = (const ElfW(Sym) *)entry->d_un.d_ptr;
            else if (entry->d_tag == DT_STRTAB)
                names = (const char *)entry->d_un.d_ptr;
        }
        if (!slots || !symbols || !names)
            return 0;
        for (i = 0; i < size / sizeof(*slots); i++) {
            if (!strcmp(names + symbols[ELF64_R_SYM(slots[i].r_info)].st_name, name)) {
                void **slot = (void **)(map->l_addr + slots[i].r_offset);
                if (mprotect((void *)((size_t)slot & ~(page - 1)), page, PROT_READ | PROT_WRITE))
                    return 0;
                *slot = function;
                found++;
            }
        }
        return found;
    }

    /* Returns whether abort() is called through a slot. That of fprintf() only keeps it quiet. */
    static int hv_redirect_giving_up(void *library)
    {
        if (!hv_redirect(library, "abort", (void *)hv_abort))
            return 0;
        hv_redirect(library, "fprintf", (void *)hv_fprintf);
        return 1;
    }

    static void hv_return(void *where)
    {
        siglongjmp(*(sigjmp_buf *)where, 1);
    }

    /* uc_ctl_request_cache outside of a run. Returns 0 if there is a translation. */
    static int hv_request(int (*control)(void *, int, ...), void *engine, int request, uint64_t address, void *block)
    {
        sigjmp_buf here;
        int error;
        if (sigsetjmp(here, 0)) {
            hv_arm(NULL, NULL);
            return -1;
        }
        hv_arm(hv_return, &here);
        error = control(engine, request, address, block);
        hv_arm(NULL, NULL);
        return error;
    }
    """
    void hv_arm(void (*given_up)(void *) noexcept nogil, void *giver) noexcept nogil
    int hv_redirect_giving_up(void *library) noexcept
    int hv_request(void *control, void *engine, int request, uint64_t address, void *block) noexcept nogil
