# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The emulated CPU: libunicorn in AMD SVM guest mode, run until something exits.

This module is the whole of our contact with Unicorn. Its functions are taken from the wheel's own
shared library at run time. Three ideas carry it; DESIGN.md and the notes on the substrate argue them.

*Exits.* The CPU enters guest mode once, by VMRUN, and stays there. Every intercepted event reaches
``on_event`` as a #VMEXIT code, which stops the run with the guest exactly at the instruction concerned.

*Registers.* QEMU's ``CPUX86State`` is found in memory by its contents, checked field by field against
what the API says, and from then on read and written in place; changing ring costs a few stores. A
library whose layout differs is refused.

*Exact time.* A block callback adds the number of instructions of each translated block before it runs
and stops before a block that would pass the fence. An exit in the middle of a block takes back what
did not run: QEMU itself is asked for the block that begins at the exit, which ends where the other does.

*Exit checks.* After every load and store Unicorn's translator puts a call that asks whether to stop, for the
sake of memory hooks, which we have none of. ``no_exit_request`` in the engine, meant for ARM's IT blocks, leaves
them out: code that touches memory is then two to three times as fast. The check after a code hook goes with
them, so a block that holds a hooked instruction is translated with all its checks: ``on_new_block`` has it done
again if it was not. The check at the beginning of each block is always there.

The .pxi files beside this one are parts of it: the library, how long instructions are, the table of blocks, what
the library calls while the guest runs, and what becomes of a run that it gives up.
"""

from cpython.mem cimport PyMem_Free
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import ctypes
import os

from hypervisor.errors import HostError

from hypervisor.ext.memory cimport nested_entry, nested_frame, nested_walkable

cdef extern from "<dlfcn.h>" nogil:
    void *dlopen(const char *name, int flags)
    void *dlsym(void *handle, const char *name)
    int RTLD_NOW

cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass
    PyThreadState *PyEval_SaveThread() noexcept nogil
    void PyEval_RestoreThread(PyThreadState *state) noexcept nogil

cdef extern from "<malloc.h>" nogil:
    size_t malloc_usable_size(void *pointer)

cdef extern from *:
    void fence_memory "__sync_synchronize" () noexcept nogil

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t length, const void *needle, size_t size)

include "library.pxi"

# What run() returns: a #VMEXIT is EXIT_BASE + its SVM exit code (AMD APM 2, appendix C); the rest are ours.
EXIT_BASE = 0x100
EXIT_FENCE = 0x7001
"""The next block would pass the fence; it has not run."""
EXIT_SITE = 0x7002
"""A watched instruction (``watch``) is about to run."""
EXIT_STOP = 0x7003
"""Somebody asked to stop."""
EXIT_SCAN = 0x7004
"""A new block, which has not run, holds bytes of interest: ``new_block`` says where."""
EXIT_UNLEARNED = 0x7005
"""A block ran into us that was never announced, or from a page that only the TLB has; that was thrown away, run again."""
EXIT_ERROR = 0x7006
"""Unicorn gave up; ``error`` says why."""
EXIT_UNTRANSLATABLE = 0x7009
"""The next block holds an instruction that the CPU cannot translate; it has not run."""
EXIT_NESTED = 0x7008
"""The nested tables do not allow an access: ``fault_address`` is guest-physical."""

cdef enum:
    BASE = 0x100
    FENCE = 0x7001
    SITE = 0x7002
    STOP = 0x7003
    SCAN = 0x7004
    UNLEARNED = 0x7005
    ERROR = 0x7006
    NESTED = 0x7008
    UNTRANSLATABLE = 0x7009
    NESTED_CODE = 0x200     # as in paging/nested.py
    VMEXIT_NPF = 0x500
    STALE = 0x700a      # a hooked instruction lies in a page that only the TLB has
    UNCHECKED = 0x7007  # a new block holds a hooked instruction, and was translated without exit checks
    VMEXIT_DB = 0x141
    VMEXIT_UD = 0x146
    VMEXIT_VINTR = 0x164
    VMEXIT_PF = 0x14e
    MONITOR = 16 << 20
    RECENT = 4096
    TAKEN = 1024
    CODE_BUFFER = 256 << 20
    MOST_TRANSLATED = CODE_BUFFER >> 10     # guest instructions; with hooks they take 200 bytes each, or so
    PATIENCE = 500      # instructions that a run may take while it keeps the GIL
    HIGHEST_TABLE = 1 << 21
    SITES = 1 << 13     # twice MOST_SITES, so that searching for one ends soon
    GONE = 1            # no host-physical address of guest code
    ANY_FORM = 0x100

MOST_SITES = 4096
"""So many addresses can be hooked (``note``, ``watch``): every instruction translated is compared with all."""
ANY = ANY_FORM
"""For ``announce_opcodes``: the opcode matters whatever follows it."""

# Offsets in CPUX86State, in QEMU's order (target/i386/cpu.h); __cinit__ checks every one of them.
cdef enum:
    ENV_EIP = 128
    ENV_EFLAGS = 136
    ENV_CC_SRC = 152
    ENV_CC_OP = 168
    ENV_DF = 172
    ENV_HFLAGS = 176
    ENV_HFLAGS2 = 180
    ENV_SEGMENTS = 184
    ENV_LDT = 328
    ENV_TR = 352
    ENV_GDT = 376
    ENV_IDT = 400
    ENV_CR = 424
    SEGMENT = 24
    ENV_SIZE = 16384     # more than any offset that we use
    CC_OP_EFLAGS = 1
    VIRTUAL_IRQ = 0x100  # CPU_INTERRUPT_VIRQ
    ARITHMETIC = 0x8d5
    DIRECTION_FLAG = 0x400
    HF_CPL = 3
    HF_INHIBIT_IRQ = 1 << 3
    HF_CS32 = 1 << 4
    HF_SS32 = 1 << 5
    HF_ADDSEG = 1 << 6
    HF_MP_SHIFT = 9
    HF_OSFXSR = 1 << 22
    HF2_NPT = 1 << 6
    CR0_PG_WP = 0x80010000
    CR4_PSE = 1 << 4
    CR4_PAE = 1 << 5
    CR4_OSFXSR = 1 << 9
    DESC_B = 1 << 22
    VM_FLAG = 1 << 17

# The monitor's fixed frames (host-physical).
VMCB = 0x1000
HSAVE = 0x2000
VMRUN_CODE = 0x4000
ONES = 0x5000
"""A frame of 0xff: what reading an address without memory gives on an ISA bus."""
SINK = 0x6000
"""Where stores to such an address go for the one instruction that makes them."""
PROBE_CODE = 0x7000
TSS = 0x8000
SIDE_ROOT = 0x9000
"""Page tables that map the first 2 MiB one to one, for the monitor's own use of the CPU; two more frames follow."""
SIDE_DATA = 0xc000
MSR_PERMISSIONS = 0xd000
"""Two frames of ones: the VMCB's map of MSRs (AMD APM 2, 15.11) that says that every access exits."""
# Register, offset in FXSAVE's area, size in bytes (Intel SDM 1, table 10-2).
LAST_X87_INSTRUCTION = (
    (UC_X86_REG_FOP, 6, 2), (UC_X86_REG_FIP, 8, 4), (UC_X86_REG_FCS, 12, 2), (UC_X86_REG_FDP, 16, 4),
    (UC_X86_REG_FDS, 20, 2),
)
POOL = 0x10000
"""From here to 16 MiB: frames for the tables of a form of paging."""
NESTED_ROOT = POOL
"""The directory of the nested tables, where there are any."""

cdef uint64_t ADDRESS = 0x000ffffffffff000


include "encoding.pxi"
include "giving_up.pxi"
include "blocks.pxi"
include "callbacks.pxi"

# ------------------------------------------------------------------ the CPU

cdef uint32_t ignored = 0            # stands for the word of pending interrupts until it is found
cdef uint64_t engine_offset = 0      # of the CPU's address in uc_engine
cdef uint64_t env_offset = 0         # of CPUX86State in the CPU


cdef class Cpu:
    """One emulated CPU in SVM guest mode.

    ``memory`` is its physical memory; ``intercepts`` the 64 intercept bits of the VMCB at offset 0x0c
    (AMD APM 2, table B-1), ``controls`` and ``debugs`` the 32 bits for CR and DR accesses at offsets 0 and 4:
    reads in the lower half, writes in the upper. ``exact`` counts instructions.
    ``nested``: it can walk the guest's own tables (``load_guest_tables``) instead of shadow tables (``load_root``).
    All 32 exceptions and INT n are always intercepted. It starts in ring 1 in the monitor's own address
    space, where nothing of the guest is mapped. Raises HostError where the library is not the one whose behaviour was measured.
    """

    def __cinit__(self, PhysicalMemory memory, uint64_t intercepts, uint32_t controls=0, uint32_t debugs=0,
                  bint exact=True, bint nested=False):
        cdef Core *core = &self.core
        cdef uc_engine *uc = NULL
        cdef int model = UC_CPU_X86_QEMU64
        if not loaded:
            _load()
        memset(core, 0, sizeof(Core))
        self.hooks = {}
        self.memory = memory
        self.exact = exact
        self.error = ""
        core.monitor = memory.monitor_base
        core.ram = memory.ram_base
        core.root = SIDE_ROOT
        core.generation = 1
        core.fence = <uint64_t>-1
        core.limit = <uint64_t>-1
        core.unchecked = &core.no_flag
        core.table_mask = (1 << 14) - 1
        core.table = <Block *>calloc(core.table_mask + 1, sizeof(Block))
        if core.table == NULL:
            raise HostError("no memory for the block table")
        self.check(uc_open(UC_ARCH_X86, UC_MODE_32, &uc), "open an engine")
        core.uc = uc
        self.check(uc_ctl(uc, UC_CTL_WRITE(UC_CTL_CPU_MODEL, 1), model), "choose the CPU model QEMU64")
        self.check(uc_ctl(uc, UC_CTL_WRITE(UC_CTL_TCG_BUFFER_SIZE, 1), <int>CODE_BUFFER), "size the code buffer")
        self.check(uc_mem_map_ptr(uc, 0, MONITOR, UC_PROT_ALL, memory.monitor_base), "map the monitor's memory")
        self.check(uc_mem_map_ptr(uc, MONITOR, memory.ram_size, UC_PROT_ALL, memory.ram_base), "map guest RAM")
        self.check(uc_ctl(uc, UC_CTL_WRITE(UC_CTL_UC_USE_EXITS, 1), <int>1), "enable exits")
        self.check(uc_ctl(uc, UC_CTL_WRITE(UC_CTL_UC_EXITS, 2), &self.edge_hook, <size_t>0), "clear the exits")
        self.locate_registers()
        self.check(uc_hook_add(uc, &self.intr_hook, UC_HOOK_INTR, <void *>on_event, core, 1, 0), "hook events")
        self.enter_guest_mode(intercepts, controls, debugs, nested)
        self.locate_interrupt_request(intercepts)
        self.check_layout()
        self.locate_error_code()
        self.try_unchecked()
        self.try_giving_up()
        self.locate_fpu_selector()
        self.check(uc_hook_add(uc, &self.edge_hook, UC_HOOK_EDGE_GENERATED, <void *>on_new_block, core, 1, 0),
                   "hook translation")
        if exact:
            self.check(uc_hook_add(uc, &self.block_hook, UC_HOOK_BLOCK, <void *>on_block, core, 1, 0), "hook blocks")
        uc_ctl(uc, UC_CTL_WRITE(UC_CTL_TB_FLUSH, 0))

    def __dealloc__(self):
        self.close()
        free(self.core.env)

    def close(self):
        """Give the engine back. What is read from then on is 0, and running is refused with EXIT_ERROR."""
        if self.core.uc != NULL:
            uc_close(<uc_engine *>self.core.uc)
            self.core.uc = NULL
            self.core.unchecked = &self.core.no_flag
            self.core.may_leave_checks = 0
            free(self.core.table)
            self.core.table = NULL
            self.core.interrupt_request = &ignored
            self.core.env = <uint8_t *>calloc(1, ENV_SIZE)
            self.error = "it is closed"

    cdef check(self, int error, str what):
        if error:
            raise HostError(f"unicorn cannot {what}: {(<bytes>uc_strerror(error)).decode()}")

    cdef refuse(self, str what):
        import unicorn

        raise HostError(f"unicorn {unicorn.__version__} is not laid out as expected ({what}); this was made for 2.1.4")

    # -------------------------------------------------------------- start-up probes

    cdef locate_registers(self):
        """Find CPUX86State: put a pattern into the general registers and look where it appears."""
        global engine_offset, env_offset
        cdef uint64_t pattern[8]
        cdef int registers[8]
        cdef uint64_t size = malloc_usable_size(self.core.uc)
        cdef uint64_t offset, word
        cdef uint8_t *found
        registers[:] = [UC_X86_REG_EAX, UC_X86_REG_ECX, UC_X86_REG_EDX, UC_X86_REG_EBX, UC_X86_REG_ESP,
                        UC_X86_REG_EBP, UC_X86_REG_ESI, UC_X86_REG_EDI]
        for i in range(8):
            pattern[i] = 0x51c30007 + i * 0x01030107
            uc_reg_write(<uc_engine *>self.core.uc, registers[i], &pattern[i])
        if not env_offset:
            # The engine points at its CPU, and the registers lie within the first 64 KiB of that. It also
            # points at other things, which may lie a little before the CPU by chance: the nearest is it.
            writable = self.writable_ranges()
            for offset in range(0, min(size, 1 << 14) - 7, 8):
                word = (<uint64_t *>(<uint8_t *>self.core.uc + offset))[0]
                for first, last in writable:
                    if first <= word < last and word % 16 == 0:
                        found = <uint8_t *>memmem(<void *>word, min(last - word, 1 << 16), pattern, sizeof(pattern))
                        if found != NULL and (not env_offset or <uint64_t>(found - <uint8_t *>word) < env_offset):
                            engine_offset = offset
                            env_offset = found - <uint8_t *>word
                        break
        if not env_offset:
            self.refuse("the registers are not where the engine points")
        self.core.env = <uint8_t *>(<uint64_t *>(<uint8_t *>self.core.uc + engine_offset))[0] + env_offset
        for i in range(8):
            if (<uint64_t *>self.core.env)[i] != pattern[i]:
                self.refuse(f"general register {i}")

    cdef uint32_t env_size(self):
        """Bytes of CPUX86State that may be searched: it ends with the CPU, which is one allocation."""
        return min(<size_t>ENV_SIZE, malloc_usable_size(self.core.env - env_offset) - env_offset)

    cdef list writable_ranges(self):
        ranges = []
        with open("/proc/self/maps") as maps:
            for line in maps:
                addresses, rights, *rest = line.split()
                # The stack is left out: the pattern we look for is there as well.
                if rights.startswith("rw") and "[stack]" not in line:
                    first, last = addresses.split("-")
                    ranges.append((int(first, 16), int(last, 16)))
        return ranges

    cdef enter_guest_mode(self, uint64_t intercepts, uint32_t controls, uint32_t debugs, bint nested):
        """VMRUN, once (AMD APM 2, 15.5): from protected mode without paging into ring 1 with PAE paging.

        With nested paging, if that is wanted, which is turned off again at once.
        """
        cdef uint8_t *vmcb = self.core.monitor + <uint64_t>VMCB
        cdef uint32_t value
        cdef uc_x86_msr msr
        cdef uc_engine *uc = <uc_engine *>self.core.uc
        cdef uint64_t code = VMRUN_CODE, probe = PROBE_CODE
        cdef uint32_t attributes[4]
        cdef int i
        memset(vmcb, 0, 4096)
        memset(self.core.monitor + <uint64_t>ONES, 0xff, 4096)
        memset(self.core.monitor + <uint64_t>MSR_PERMISSIONS, 0xff, 8192)
        (<uint32_t *>vmcb)[0] = controls
        (<uint32_t *>(vmcb + 0x04))[0] = debugs
        (<uint32_t *>(vmcb + 0x08))[0] = 0xffffffff
        (<uint64_t *>(vmcb + 0x0c))[0] = intercepts | 1 << 21        # INT n, always
        (<uint64_t *>(vmcb + 0x48))[0] = <uint64_t>MSR_PERMISSIONS
        (<uint32_t *>(vmcb + 0x60))[0] = 1 << 20 | 1 << 8            # V_IGN_TPR, V_IRQ: see locate_interrupt_request
        if nested:
            (<uint64_t *>(vmcb + 0x90))[0] = 1                        # NP_ENABLE
            (<uint64_t *>(vmcb + 0xb0))[0] = <uint64_t>NESTED_ROOT    # N_CR3
            (<uint32_t *>(self.core.monitor + <uint64_t>NESTED_ROOT))[0] = <uint32_t>NESTED_ROOT + 0x1000 | 7
            for i in range(1024):
                (<uint32_t *>(self.core.monitor + <uint64_t>NESTED_ROOT + 0x1000))[i] = i << 12 | 7
        attributes[:] = [0xcb3, 0xcbb, 0xcb3, 0xcb3]                  # ring 1: data, code, data, data
        for i in range(4):
            (<uint16_t *>(vmcb + 0x400 + i * 16))[0] = 0x09 if i == 1 else 0x11
            (<uint16_t *>(vmcb + 0x402 + i * 16))[0] = attributes[i]
            (<uint32_t *>(vmcb + 0x404 + i * 16))[0] = 0xffffffff
        (<uint64_t *>(vmcb + 0x4d0))[0] = 1 << 12 | 1 << 11           # EFER: SVME, NXE
        (<uint64_t *>(vmcb + 0x548))[0] = 0x624                       # CR4: TSD, PAE, OSFXSR, OSXMMEXCPT
        (<uint64_t *>(vmcb + 0x550))[0] = self.core.root              # CR3
        (<uint64_t *>(vmcb + 0x558))[0] = 0x80010033                  # CR0: PG, WP, NE, ET, MP, PE
        (<uint64_t *>(vmcb + 0x570))[0] = 0x002                       # RFLAGS
        (<uint64_t *>(vmcb + 0x578))[0] = probe
        memcpy(self.core.monitor + code, <const char *>b"\x0f\x01\xd8", 3)
        memcpy(self.core.monitor + probe, <const char *>b"\xcd\x80", 2)
        value = 0x11
        uc_reg_write(uc, UC_X86_REG_CR0, &value)
        msr.rid, msr.value = 0xc0000080, 1 << 12                      # EFER.SVME
        uc_reg_write(uc, UC_X86_REG_MSR, &msr)
        msr.rid, msr.value = 0xc0010117, <uint64_t>HSAVE              # VM_HSAVE_PA
        uc_reg_write(uc, UC_X86_REG_MSR, &msr)
        value = <uint32_t>VMCB
        uc_reg_write(uc, UC_X86_REG_EAX, &value)
        self.core.exit_code = 0
        self.core.interrupt_request = &ignored
        self.map_side()
        self.check(uc_emu_start(uc, code, 0, 0, 0), "run VMRUN")
        if self.core.exit_code != 0x175:
            self.refuse(f"VMRUN gave exit {self.core.exit_code:#x} instead of 0x175")
        if (hflags2(&self.core)[0] & HF2_NPT != 0) != nested:
            self.refuse("the flag of nested paging")
        hflags2(&self.core)[0] &= ~<uint32_t>HF2_NPT
        self.flush_tlb()
        memset(self.core.monitor + <uint64_t>NESTED_ROOT, 0, 8192)

    cdef map_side(self):
        """The monitor's own address space: its first 2 MiB one to one."""
        cdef uint64_t *table = <uint64_t *>(self.core.monitor + <uint64_t>SIDE_ROOT + 0x2000)
        cdef uint64_t i
        (<uint64_t *>(self.core.monitor + <uint64_t>SIDE_ROOT))[0] = <uint64_t>SIDE_ROOT + 0x1000 | 1
        (<uint64_t *>(self.core.monitor + <uint64_t>SIDE_ROOT + 0x1000))[0] = <uint64_t>SIDE_ROOT + 0x2000 | 7
        for i in range(512):
            table[i] = i << 12 | 0x63

    cdef Nested *to_side(self):
        """Enter the monitor's own address space. Returns what ``from_side`` wants."""
        cdef Nested *nested = self.core.nested
        cdef uint64_t *control = <uint64_t *>(self.core.env + ENV_CR)
        if nested != NULL:
            self.core.nested = NULL
            hflags2(&self.core)[0] &= ~<uint32_t>HF2_NPT
            control[0] |= <uint64_t>CR0_PG_WP
            control[4] |= CR4_PAE
        self.load_root(SIDE_ROOT)
        return nested

    cdef void from_side(self, uint64_t root, Nested *nested):
        """Leave it for what was there before; under nested paging the caller has restored the control registers."""
        if nested == NULL:
            self.load_root(root)
            return
        self.core.nested = nested
        self.core.root = root
        hflags2(&self.core)[0] |= HF2_NPT
        self.flush_tlb()

    cdef locate_interrupt_request(self, uint64_t intercepts):
        """QEMU's word of pending interrupts: VMRUN has set the bit for V_IRQ in it, and no other.

        It lies in the part of the CPU that is the same for all architectures, before CPUX86State.
        """
        cdef uint8_t *cpu = self.core.env - env_offset
        cdef uint64_t offset
        cdef list found = [offset for offset in range(0, env_offset, 4) if (<uint32_t *>(cpu + offset))[0] == VIRTUAL_IRQ]
        if len(found) != 1:
            self.refuse(f"V_IRQ was found {len(found)} times")
        self.core.interrupt_request = <uint32_t *>(cpu + <uint64_t>found[0])
        self.core.interrupt_request[0] = 0
        if intercepts & 1 << 4:
            # STI, NOP, NOP: V_IRQ must exit after the first NOP, and only if it is set.
            memcpy(self.core.monitor + <uint64_t>PROBE_CODE, <const char *>b"\xfb\x90\x90\xcd\x80", 5)
            for request, code, eip in ((VIRTUAL_IRQ, VMEXIT_VINTR, PROBE_CODE + 2), (0, 0x175, PROBE_CODE + 3)):
                self.set_segment(2, 0x10, 0, 0xffffffff, 0xcf9300)
                self.set_eflags(2)
                self.core.exit_code = 0
                self.core.interrupt_request[0] = request
                uc_emu_start(<uc_engine *>self.core.uc, PROBE_CODE, 0, 0, 0)
                if self.core.exit_code != code or self.get_eip() != eip:
                    self.refuse(f"with V_IRQ {request:#x}, STI gave exit {self.core.exit_code:#x}")
                self.set_segment(2, 0x11, 0, 0xffffffff, 0xcfb300)
            self.set_eip(PROBE_CODE)

    cdef check_layout(self):
        """Every offset that we use, against what the API says of the same register."""
        cdef uint8_t *env = self.core.env
        cdef uint32_t value = 0
        cdef uc_x86_mmr table
        cdef uc_engine *uc = <uc_engine *>self.core.uc
        if (<uint64_t *>(env + ENV_EIP))[0] != <uint64_t>PROBE_CODE:
            self.refuse("EIP")
        for register, offset in ((UC_X86_REG_CR0, 0), (UC_X86_REG_CR3, 24), (UC_X86_REG_CR4, 32)):
            uc_reg_read(uc, register, &value)
            if (<uint64_t *>(env + ENV_CR + <int>offset))[0] != value or value == 0:
                self.refuse("a control register")
        for index, expected in ((0, 0x11), (1, 0x09), (2, 0x11), (3, 0x11)):
            if (<uint32_t *>(env + ENV_SEGMENTS + SEGMENT * <int>index))[0] != expected:
                self.refuse("a segment register")
            if self.segment_limit(index) != 0xffffffff or (self.segment_flags(index) >> 13 & 3) != 1:
                self.refuse("a segment's hidden part")
        memset(&table, 0, sizeof(table))
        table.base, table.limit = 0x12345000, 0x6789
        uc_reg_write(uc, UC_X86_REG_GDTR, &table)
        if (<uint64_t *>(env + ENV_GDT + 8))[0] != 0x12345000 or (<uint32_t *>(env + ENV_GDT + 16))[0] != 0x6789:
            self.refuse("GDTR")
        for flags in (0x202, 0x8d7, 0x602, 0xad7):
            self.set_eflags(flags)
            uc_reg_read(uc, UC_X86_REG_EFLAGS, &value)
            if value != flags:
                self.refuse("EFLAGS")
        if hflags(&self.core) & (HF_CPL | HF_CS32 | HF_SS32) != (1 | HF_CS32 | HF_SS32):
            self.refuse("hflags")
        # The rest of what the real CPU has: no descriptor tables at all, and a task register that is not busy.
        self.set_table(ENV_GDT, 0, 0, 0, 0)
        self.set_table(ENV_IDT, 0, 0, 0, 0)
        self.set_table(ENV_LDT, 0, 0, 0, 0)
        self.set_table(ENV_TR, 0, <uint64_t>TSS, 0x67, 0x8900)
        self.set_eflags(0x202)

    cdef void set_table(self, int at, uint32_t selector, uint64_t base, uint32_t limit, uint32_t flags):
        cdef uint8_t *cache = self.core.env + at
        (<uint32_t *>cache)[0] = selector
        (<uint64_t *>(cache + 8))[0] = base
        (<uint32_t *>(cache + 16))[0] = limit
        (<uint32_t *>(cache + 20))[0] = flags

    cdef locate_error_code(self):
        """The exception's error code is an int in CPUX86State: after read faults it is 0, after write faults 2.

        Other words change meanwhile too (QEMU keeps times and statistics near by), and one may happen to change
        so, once in some hundred starts. The right one does every time.
        """
        cdef uint8_t wrong[ENV_SIZE]
        cdef uint64_t code = PROBE_CODE
        cdef uint32_t i, value
        cdef uint32_t expected
        cdef uint32_t hits = 0
        cdef uint32_t size = self.env_size()
        memcpy(self.core.monitor + code, <const char *>b"\xa1\x00\x00\x00\xf0\x90\xa3\x00\x00\x00\xf0\x90", 12)
        memset(wrong, 0, sizeof(wrong))
        self.uc_flush()
        for expected in (0, 2, 0, 2, 2, 0, 0, 2):
            self.probe_run(code + 3 * expected)
            for i in range(0, size - 3, 4):
                memcpy(&value, self.core.env + i, 4)
                wrong[i] |= value != expected
        for i in range(0, size - 3, 4):
            if not wrong[i]:
                self.error_code_offset = i
                hits += 1
        if hits != 1:
            self.refuse(f"the error code was found {hits} times")
        if self.fault_address() != 0xf0000000:
            self.refuse("EXITINFO2")

    cdef try_unchecked(self):
        """Does ``no_exit_request`` do what we believe? Stop at a code hook: with the checks the instruction there
        does not run, without them it does, up to the INT behind it.
        """
        cdef Core *core = &self.core
        cdef uint64_t code = PROBE_CODE
        cdef uint64_t hook = 0
        cdef uint32_t stopped, passed
        if not no_exit_request or no_exit_request >= malloc_usable_size(core.uc):
            return
        core.unchecked = <uint8_t *>core.uc + no_exit_request
        if core.unchecked[0] == 0:
            memcpy(core.monitor + code, <const char *>b"\x40\xcd\x80", 3)      # inc eax; int 0x80
            self.check(uc_hook_add(<uc_engine *>core.uc, &hook, UC_HOOK_CODE, <void *>on_probe, core, code, code),
                       "hook an instruction")
            stopped = self.probe_hook()
            core.unchecked[0] = 1
            passed = self.probe_hook()
            uc_hook_del(<uc_engine *>core.uc, hook)
            core.may_leave_checks = stopped == SITE and passed == 0x175
            core.unchecked[0] = core.may_leave_checks
        if not core.may_leave_checks:
            core.unchecked = &core.no_flag

    cdef uint32_t probe_hook(self):
        self.uc_flush()
        self.core.exit_code = 0
        uc_emu_start(<uc_engine *>self.core.uc, PROBE_CODE, 0, 0, 0)
        return self.core.exit_code

    cdef try_giving_up(self):
        """LOCK BT EAX, EDX cannot be translated: it must exit, and the CPU must go on after it."""
        cdef uint64_t code = PROBE_CODE
        cdef int i
        for i in range(2):
            memcpy(self.core.monitor + code, <const char *>b"\xf0\x0f\xa3\xd0", 4)
            self.uc_flush()
            self.core.exit_code = 0
            hv_arm(on_giving_up, &self.core)
            uc_emu_start(<uc_engine *>self.core.uc, PROBE_CODE, 0, 0, 0)
            hv_arm(NULL, NULL)
            if self.core.exit_code not in (UNTRANSLATABLE, VMEXIT_UD):
                self.refuse(f"LOCK BT gave exit {self.core.exit_code:#x}")
            memcpy(self.core.monitor + code, <const char *>b"\x90\x90\xcd\x80", 4)
            if self.probe_hook() != 0x175 or self.get_eip() != PROBE_CODE + 2:
                self.refuse(f"after LOCK BT, INT gave exit {self.core.exit_code:#x}")

    cdef locate_fpu_selector(self):
        """The selector in CS at the last x87 instruction: only it changes when that register is written."""
        cdef uint64_t value
        cdef list candidates = list(range(0, self.env_size() - 1, 2))
        for value in (0x5a51, 0x33c6, 0):
            uc_reg_write(<uc_engine *>self.core.uc, UC_X86_REG_FCS, &value)
            candidates = [i for i in candidates if (<uint16_t *>(self.core.env + <uint32_t>i))[0] == value]
        if len(candidates) != 1:
            self.refuse(f"the selector of the FPU was found {len(candidates)} times")
        self.core.fpu_selector = candidates[0]

    cdef probe_run(self, uint32_t eip):
        self.core.exit_code = 0
        uc_emu_start(<uc_engine *>self.core.uc, eip, 0, 0, 0)
        if self.core.exit_code != VMEXIT_PF:
            self.refuse(f"a page fault gave exit {self.core.exit_code:#x}")

    cdef uc_flush(self):
        if self.core.uc != NULL:
            uc_ctl(<uc_engine *>self.core.uc, UC_CTL_WRITE(UC_CTL_TB_FLUSH, 0))

    # -------------------------------------------------------------- running

    cpdef uint32_t run(self, uint64_t fence) except? 0xdeadbeef:
        """Run from EIP until something exits; returns why (``EXIT_...`` or EXIT_BASE + SVM code).

        At most until ``fence`` instructions have been retired since boot (exact time only). Afterwards
        EIP and ``retired`` say exactly how far the guest came. The GIL is released meanwhile, at once or after
        a few blocks.
        """
        cdef uint32_t code = self.run_once(fence)
        while code == UNCHECKED:
            # Blocks may overlap. All that hold this one's first byte go with it, but none that begins later: so
            # every block is thrown away at most once for each that begins behind it, and then they all stay.
            self.forget(self.core.new_pc, 1)
            self.core.unchecked[0] = 0
            code = self.run_once(fence)
        return code

    cdef uint32_t run_once(self, uint64_t fence) except? 0xdeadbeef:
        """The same, or UNCHECKED: the block at ``new_pc`` is to be translated again, with all checks."""
        cdef Core *core = &self.core
        cdef int error
        cdef uint32_t eip = (<uint32_t *>(core.env + ENV_EIP))[0]
        cdef uint32_t at
        cdef bint unfetched, stale
        if core.uc == NULL:
            return ERROR
        if core.translated > MOST_TRANSLATED:
            # QEMU makes room by itself, but only while it runs. Out of a run (``not_run``, ``length_at``) it
            # would jump back into the last one, and that would be the end of the process.
            self.forget_all()
        core.fence = fence
        core.exit_code = 0
        core.block_count = 0
        core.noted = 0
        core.running = 1
        core.runs += 1
        # Most runs are shorter than it takes to give the GIL away; long ones do it after a while.
        core.holding = self.exact and core.runs & 63 != 0
        core.limit = 0 if core.window else min(fence, core.retired + PATIENCE) if core.holding else fence
        fence_memory()
        if core.stop:
            core.stop = 0
            core.running = 0
            core.exit_code = STOP
            core.exits[STOP & 511] += 1
            return STOP
        core.interrupt_request[0] = VIRTUAL_IRQ if core.window else 0
        hv_arm(on_giving_up, core)
        if core.holding:
            error = uc_emu_start(<uc_engine *>core.uc, eip, 0, 0, 0)
            if core.thread != NULL:
                PyEval_RestoreThread(<PyThreadState *>core.thread)
                core.thread = NULL
        else:
            with nogil:
                error = uc_emu_start(<uc_engine *>core.uc, eip, 0, 0, 0)
        hv_arm(NULL, NULL)
        core.running = 0
        core.interrupt_request[0] = 0
        if error:
            self.error = (<bytes>uc_strerror(error)).decode()
            core.exit_code = ERROR
            return ERROR
        if core.exit_code == UNCHECKED:
            return UNCHECKED
        if core.exit_code == 0:
            core.exit_code = STOP
        elif core.exit_code == VMEXIT_NPF:
            core.exit_code = NESTED
        stale = core.exit_code == STALE
        if stale:
            core.exit_code = UNLEARNED
        core.exits[core.exit_code & 511] += 1
        if core.exit_code == STOP:
            core.stop = 0
            return STOP
        # A page fault in fetching the next block. (Under nested paging, those of the guest's tables do not say that.)
        unfetched = core.exit_code in (VMEXIT_PF, NESTED) and self.error_code() & 0x10
        at = self.linear_eip()
        if core.noted and core.noted_pc == at and not unfetched and core.exit_code != VMEXIT_DB and (
                BASE <= core.exit_code < BASE + 0x100 or core.exit_code == NESTED):
            self.take_flags_back()
        if core.block_count and core.exit_code != VMEXIT_DB and core.exit_code != VMEXIT_VINTR and not unfetched and (
                at - core.block_pc < core.block_size):
            # In the middle of a block, or at its last instruction.
            core.retired -= self.not_run(at)
        elif core.exit_code == UNLEARNED and not stale:
            self.forget(core.new_pc, core.new_size)
        elif core.exit_code in (VMEXIT_PF, NESTED, UNTRANSLATABLE) and core.retired >= fence:
            # The next block could not be fetched, but it lies behind the fence anyway: ask again then.
            core.exit_code = FENCE
        if stale:
            self.flush_tlb()
        return core.exit_code

    cdef void take_flags_back(self):
        """After an exit in the middle of a hooked instruction: the arithmetic flags as they were before it.

        After the callback QEMU computes all of them, where otherwise one operand of the last operation is. An
        exit takes back which operation that was, but not the operand.
        """
        cdef uint64_t *flags = <uint64_t *>(self.core.env + ENV_EFLAGS)
        cdef uint64_t arithmetic = (<uint64_t *>(self.core.env + ENV_CC_SRC))[0] & ARITHMETIC
        self.set_eflags(<uint32_t>((flags[0] & ~<uint64_t>ARITHMETIC) | arithmetic))

    def bare_exits(self, uint64_t count, uint32_t length):
        """For benchmarks: exit ``count`` times, each time skipping an instruction of ``length`` bytes, all in C."""
        cdef uint64_t i
        cdef uint32_t eip = self.get_eip()
        with nogil:
            for i in range(count):
                uc_emu_start(<uc_engine *>self.core.uc, eip, 0, 0, 0)
                eip = (<uint32_t *>(self.core.env + ENV_EIP))[0] + length

    cdef uint32_t not_run(self, uint32_t at):
        """Instructions of the current block from linear address ``at`` to its end."""
        cdef Core *core = &self.core
        cdef uc_tb rest
        cdef uint32_t tag = at - core.block_pc | (hflags(core) & HF_CS32) << 11 | core.block_size << 16
        cdef Recent *taken = &core.taken[(at ^ core.block_pc << 3) & (TAKEN - 1)]
        if at == core.block_pc:
            return core.block_count
        if taken.generation == core.generation and taken.pc == core.block_pc and taken.size == tag:
            return taken.count
        rest.icount = 0
        # What is translated on request is not announced, and may well be run later.
        core.unchecked[0] = core.may_leave_checks and not holds_hook(core, at, core.block_pc + core.block_size - at)
        if self.may_translate(at) and self.request(at, &rest):
            if <uint32_t>rest.pc + rest.size == core.block_pc + core.block_size:
                learn(core, at, rest.size, rest.icount)
            else:
                # The block did not end by itself; this one is longer. Forget it.
                uc_ctl(<uc_engine *>core.uc, UC_CTL_WRITE(UC_CTL_TB_REMOVE_CACHE, 2), rest.pc, rest.pc + rest.size)
                rest.icount = 0
        core.unchecked[0] = core.may_leave_checks
        if rest.icount == 0:
            rest.icount = self.step_count(at, core.block_pc + core.block_size)
        taken.pc = core.block_pc
        taken.size = tag
        taken.count = rest.icount
        taken.generation = core.generation
        return rest.icount

    cdef bint request(self, uint32_t at, void *block):
        """Let QEMU translate the block at a linear address, outside of a run; ``block`` is a uc_tb. Could it?"""
        return hv_request(<void *>uc_ctl, self.core.uc, UC_CTL_READ_WRITE(UC_CTL_TB_REQUEST_CACHE, 2), at, block) == 0

    cdef bint may_translate(self, uint32_t at):
        """May QEMU be asked for the block at ``at``, in the middle of the current one?

        Usually it ends where the current one does. But one that was cut short (QEMU does so after 512
        instructions, or when its buffers are full) may have a rest that goes on into a page that cannot be
        fetched from, and a page fault outside of a run ends the process. 32 instructions fill no buffer.
        """
        cdef Core *core = &self.core
        cdef uint32_t following = (at | 0xfff) + 1
        cdef uint64_t need = 1 | (4 if hflags(core) & HF_CPL == 3 else 0)
        if core.nested != NULL and not nested_walkable(core.nested, at):
            return False
        if core.block_count < 32 or following - core.block_pc < core.block_size:
            return True
        return self.memory.shadow_entry(core.root, following) & (need | <uint64_t>1 << 63) == need

    cdef uint32_t step_count(self, uint32_t first, uint32_t last):
        """Instructions from one linear address to another, both in the current block, as QEMU decodes them."""
        cdef uint32_t at = first
        cdef uint32_t count = 0
        cdef uint32_t length
        while at - first < last - first:
            length = self.length_at(at)
            if length == 0:
                break
            at += length
            count += 1
        return count

    cdef uint32_t length_at(self, uint32_t at):
        """Bytes of the instruction at a linear address in the current block; 0 if QEMU does not say.

        Under the trap flag each instruction is a block of its own.
        """
        cdef Core *core = &self.core
        cdef uint64_t *flags = <uint64_t *>(core.env + ENV_EFLAGS)
        cdef uint64_t saved = flags[0]
        cdef uc_tb one
        one.size = 0
        if core.nested != NULL and not nested_walkable(core.nested, at):
            return 0
        core.unchecked[0] = 0
        flags[0] |= 0x100
        if not self.request(at, &one):
            one.size = 0
        flags[0] = saved
        core.unchecked[0] = core.may_leave_checks
        if one.size:
            learn(core, at, one.size, 1)
        return one.size

    def request_stop(self):
        """Make a run that is under way, or the next one, return EXIT_STOP. From any thread; never lost."""
        self.core.stop = 1
        fence_memory()
        self.core.limit = 0

    def kick(self):
        """As ``request_stop``, for a CPU without block callback: call it again until the run has ended."""
        self.core.stop = 1
        if self.core.running and self.core.uc != NULL:
            uc_emu_stop(<uc_engine *>self.core.uc)

    def exit_counts(self):
        """How often each exit was taken: {exit code: count}."""
        counts = {}
        for code in (*range(BASE, BASE + 0x100), *range(FENCE, ERROR), NESTED, UNTRANSLATABLE):
            if self.core.exits[code & 511]:
                counts[code] = self.core.exits[code & 511]
        return counts

    @property
    def exit_code(self):
        """Why the last run ended."""
        return self.core.exit_code

    @property
    def stop_asked(self):
        """Has a stop been asked for that no run has answered yet?"""
        return self.core.stop != 0

    def take_stop(self):
        """Has a stop been asked for that no run has answered yet? Then it is answered now."""
        asked = self.core.stop != 0
        self.core.stop = 0
        return asked

    @property
    def running(self):
        return bool(self.core.running)

    @property
    def new_block(self):
        """Linear address and size of the block that EXIT_SCAN is about."""
        return self.core.new_pc, self.core.new_size

    # -------------------------------------------------------------- translated code

    @property
    def leaves_checks_out(self):
        """Is code translated without exit checks after loads and stores? If not, it is slow and otherwise the same."""
        return bool(self.core.may_leave_checks)

    def announce_opcodes(self, one_byte, two_byte):
        """Announce new blocks (EXIT_SCAN) in which one of these opcodes seems to be.

        Each is a mapping, of a byte, or of one that follows 0x0f, to the forms that matter: ANY, or bits for
        values of the ModRM byte's reg field, which then stand for its memory forms.
        """
        self.core.announcing = bool(one_byte or two_byte)
        for i in range(256):
            self.core.one_byte[i] = one_byte.get(i, 0)
            self.core.two_byte[i] = two_byte.get(i, 0)

    cpdef void set_lent(self, bint lent):
        """The next runs are of one instruction with a page on loan: it was looked at before."""
        self.core.lent = lent

    def instructions(self, uint32_t first, uint32_t size):
        """Where instructions begin in a new block, as QEMU decodes it: their offsets from its linear address."""
        cdef uint32_t at = first
        cdef uint32_t length
        offsets = []
        while at - first < size:
            offsets.append(at - first)
            length = self.length_at(at)
            if length == 0:
                break
            at += length
        return offsets

    def hide_ring(self, uint32_t ring):
        """The guest's kernel runs in this ring: the selector in CS at the last x87 instruction, which noted
        instructions store, is shown to the guest with ring 0 instead. (Ring 0, the default: nothing is hidden.)
        """
        self.core.kernel_ring = ring

    def note(self, uint32_t address):
        """Let the arithmetic flags survive an exit in the middle of the instruction at this linear address, and
        hide the kernel's ring from it.

        They survive if it does not change CC_SRC itself before. Returns whether its block must be forgotten
        for that to take effect.
        """
        cdef uint64_t hook = 0
        if address in self.hooks or self.core.uc == NULL:
            return False
        self.check(uc_hook_add(<uc_engine *>self.core.uc, &hook, UC_HOOK_CODE, <void *>on_site, &self.core,
                               address, address), "hook an instruction")
        self.hooks[address] = hook
        if self.core.hook_count < SITES:
            self.core.hooked[self.core.hook_count] = address
            self.core.hook_count += 1
        return True

    def watch(self, uint32_t address):
        """Exit (EXIT_SITE) before the instruction that is now at this linear address, wherever it is mapped here.

        Returns whether its block must be forgotten for that to take effect.
        """
        cdef uint64_t frame = frame_of(&self.core, address)
        cdef uint32_t slot
        if frame:
            slot = site_slot(&self.core, frame | (address & 0xfff))
            if self.core.sites[slot] == 0:
                self.core.sites_used += 1
            self.core.sites[slot] = frame | (address & 0xfff)
        return self.note(address)

    def unwatch(self, uint32_t address):
        """There is other code now where the instruction at this linear address was."""
        cdef uint64_t frame = frame_of(&self.core, address)
        cdef uint32_t slot
        if frame:
            slot = site_slot(&self.core, frame | (address & 0xfff))
            if self.core.sites[slot] == frame | (address & 0xfff):
                self.core.sites[slot] = GONE

    @property
    def sites(self):
        """How many addresses are noted or watched; at most MOST_SITES are allowed."""
        return max(len(self.hooks), self.core.sites_used)

    def forget_sites(self):
        """Note and watch nothing any more; all code will be announced again."""
        if self.core.uc == NULL:
            return
        for hook in self.hooks.values():
            uc_hook_del(<uc_engine *>self.core.uc, hook)
        self.hooks.clear()
        self.core.hook_count = 0
        memset(self.core.sites, 0, sizeof(self.core.sites))
        self.core.sites_used = 0
        self.forget_all()

    def forget(self, uint32_t first, uint32_t size):
        """Throw away code translated from linear addresses that are mapped executable now."""
        if self.core.uc == NULL:
            return
        uc_ctl(<uc_engine *>self.core.uc, UC_CTL_WRITE(UC_CTL_TB_REMOVE_CACHE, 2), <uint64_t>first,
               <uint64_t>first + size)
        next_generation(&self.core)

    def forget_frame(self, uint64_t frame):
        """Throw away the code translated from a host-physical frame, whoever maps it where.

        The library invalidates by linear address, so the frame is shown to it for a moment at the end of
        the monitor's own address space.
        """
        cdef Core *core = &self.core
        cdef uint64_t root = core.root
        cdef uint64_t *window = <uint64_t *>(core.monitor + <uint64_t>SIDE_ROOT + 0x2000) + 511
        cdef Nested *nested
        cdef uint8_t control[40]
        if core.uc == NULL:
            return
        memcpy(control, core.env + ENV_CR, sizeof(control))
        nested = self.to_side()
        window[0] = frame | 0x65
        uc_ctl(<uc_engine *>core.uc, UC_CTL_WRITE(UC_CTL_TB_REMOVE_CACHE, 2), <uint64_t>0x1ff000, <uint64_t>0x200000)
        window[0] = 0
        memcpy(core.env + ENV_CR, control, sizeof(control))
        self.from_side(root, nested)

    def forget_all(self):
        """Throw away all translated code, and what is known of it."""
        if self.core.uc == NULL:
            return
        self.uc_flush()
        if self.core.table_used:
            memset(self.core.table, 0, (self.core.table_mask + 1) * sizeof(Block))
            self.core.table_used = 0
        self.core.translated = 0
        next_generation(&self.core)

    cpdef void flush_tlb(self):
        """Entries of the shadow tables were removed or restricted."""
        if self.core.uc == NULL:
            return
        uc_ctl(<uc_engine *>self.core.uc, UC_CTL_WRITE(UC_CTL_TLB_FLUSH, 0))
        next_generation(&self.core)
        if self.core.table_used > HIGHEST_TABLE:
            self.forget_all()

    cpdef void set_root(self, uint64_t root):
        """CR3, without the TLB flush: for the caller that flushes anyway."""
        self.core.root = root
        next_generation(&self.core)
        (<uint64_t *>(self.core.env + ENV_CR + 24))[0] = root

    cpdef void load_root(self, uint64_t root):
        """Load the real CR3 with the host-physical address of a PDPT."""
        self.set_root(root)
        self.flush_tlb()

    cpdef void load_guest_tables(self, uint32_t cr0, uint32_t cr3, uint32_t cr4):
        """Nested paging: from now on walk the guest's tables, as its control registers say, and the nested ones."""
        cdef Nested *nested = &self.memory.nested
        cdef uint64_t *control = <uint64_t *>(self.core.env + ENV_CR)
        nested.root = NESTED_ROOT
        nested.directory = cr3 & ~<uint32_t>0xfff
        nested.enabled = cr0 >> 31
        nested.large = cr4 & CR4_PSE != 0
        control[0] = (control[0] & ~<uint64_t>CR0_PG_WP) | (cr0 & <uint64_t>CR0_PG_WP)
        control[3] = nested.directory
        control[4] = (control[4] & ~<uint64_t>(CR4_PAE | CR4_PSE)) | (cr4 & CR4_PSE)
        self.from_side(NESTED_ROOT, nested)

    # -------------------------------------------------------------- registers, in place

    cpdef uint32_t general(self, uint32_t index):
        """EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI by the number of their encoding."""
        return (<uint32_t *>(self.core.env + (index & 7) * 8))[0]

    cpdef void set_general(self, uint32_t index, uint32_t value) noexcept:
        (<uint64_t *>(self.core.env + (index & 7) * 8))[0] = value

    cpdef uint32_t get_eip(self):
        return (<uint32_t *>(self.core.env + ENV_EIP))[0]

    cpdef uint32_t linear_eip(self):
        """Linear address of the next instruction."""
        return (<uint32_t *>(self.core.env + ENV_EIP))[0] + (<uint32_t *>(self.core.env + ENV_SEGMENTS + SEGMENT + 8))[0]

    cpdef void set_eip(self, uint32_t value) noexcept:
        (<uint64_t *>(self.core.env + ENV_EIP))[0] = value

    cpdef uint32_t get_eflags(self):
        return (<uint32_t *>(self.core.env + ENV_EFLAGS))[0]

    cpdef void set_eflags(self, uint32_t value) noexcept:
        # Between runs all of EFLAGS is in its place (QEMU's cpu_exec_enter takes the arithmetic flags from
        # there); the lazy condition codes are set as well for readers that combine the two.
        (<uint64_t *>(self.core.env + ENV_CC_SRC))[0] = value & ARITHMETIC
        (<uint32_t *>(self.core.env + ENV_CC_OP))[0] = CC_OP_EFLAGS
        (<int *>(self.core.env + ENV_DF))[0] = -1 if value & 0x400 else 1
        (<uint64_t *>(self.core.env + ENV_EFLAGS))[0] = value | 2

    cpdef uint64_t get_retired(self):
        return self.core.retired

    cpdef void set_retired(self, uint64_t value) noexcept:
        self.core.retired = value

    eip = property(get_eip, set_eip, doc="The instruction pointer, relative to the code segment's base.")
    eflags = property(get_eflags, set_eflags, doc="The real EFLAGS.")
    retired = property(get_retired, set_retired, doc="Guest instructions retired since boot (exact time).")

    cpdef uint32_t error_code(self):
        """Error code of the exception that exited."""
        return (<uint32_t *>(self.core.env + self.error_code_offset))[0]

    cpdef uint32_t fault_address(self):
        """Linear address of the page fault that exited (EXITINFO2)."""
        return (<uint32_t *>(self.core.monitor + 0x1000 + 0x80))[0]

    cpdef bint trap_flag(self):
        """Is the real trap flag set?"""
        return ((<uint32_t *>(self.core.env + ENV_EFLAGS))[0] & 0x100) != 0

    cpdef bint shadowed(self):
        """Does the instruction just run (STI, MOV SS, POP SS) hold interrupts back for one more?"""
        return (hflags(&self.core) & HF_INHIBIT_IRQ) != 0

    cpdef void set_shadowed(self, bint on) noexcept:
        """Hold interrupts back for the next instruction (as STI and MOV SS do), or do so no longer."""
        cdef uint32_t *h = <uint32_t *>(self.core.env + ENV_HFLAGS)
        h[0] = (h[0] & ~<uint32_t>HF_INHIBIT_IRQ) | (HF_INHIBIT_IRQ if on else 0)

    cpdef void set_window(self, bint wanted) noexcept:
        """Should the next runs exit as soon as the real IF lets interrupts in (V_IRQ with its intercept)?"""
        self.core.window = wanted

    cpdef uint32_t selector(self, uint32_t index):
        """The real selector of ES, CS, SS, DS, FS, GS."""
        return (<uint32_t *>(self.core.env + ENV_SEGMENTS + SEGMENT * index))[0] & 0xffff

    cpdef uint32_t segment_base(self, uint32_t index):
        return (<uint32_t *>(self.core.env + ENV_SEGMENTS + SEGMENT * index + 8))[0]

    cpdef uint32_t segment_limit(self, uint32_t index):
        return (<uint32_t *>(self.core.env + ENV_SEGMENTS + SEGMENT * index + 16))[0]

    cpdef uint32_t segment_flags(self, uint32_t index):
        """The descriptor's second word, as QEMU keeps it."""
        return (<uint32_t *>(self.core.env + ENV_SEGMENTS + SEGMENT * index + 20))[0]

    cpdef void set_segment(self, uint32_t index, uint32_t selector, uint32_t base, uint32_t limit, uint32_t flags):
        """Load a real segment register with its hidden part. SS decides the ring (its DPL)."""
        cdef uint8_t *segments = self.core.env + ENV_SEGMENTS
        cdef uint32_t h = hflags(&self.core)
        self.set_table(ENV_SEGMENTS + SEGMENT * index, selector, base, limit, flags)
        if index == 1:
            h = (h & ~<uint32_t>HF_CS32) | (flags & DESC_B) >> 18
            # The same bytes are another block now: its length must be looked up.
            self.core.last_block = 0
        elif index == 2:
            h = (h & ~<uint32_t>(HF_CPL | HF_SS32)) | (flags >> 13 & 3) | (flags & DESC_B) >> 17
        h &= ~<uint32_t>HF_ADDSEG
        if not h & HF_CS32 or (<uint32_t *>(self.core.env + ENV_EFLAGS))[0] & VM_FLAG or (
                (<uint32_t *>(segments + 8))[0] | (<uint32_t *>(segments + SEGMENT * 2 + 8))[0] |
                (<uint32_t *>(segments + SEGMENT * 3 + 8))[0]):
            h |= HF_ADDSEG
        (<uint32_t *>(self.core.env + ENV_HFLAGS))[0] = h

    @property
    def ring(self):
        """The real current privilege level."""
        return hflags(&self.core) & HF_CPL

    def set_fpu_control(self, uint32_t cr0, uint32_t cr4):
        """Make TS, EM and MP of the real CR0 what the guest's are, so that #NM comes when it should; and let SSE
        instructions be undefined unless the guest's CR4 has OSFXSR. (The real one always has it.)"""
        cdef uint64_t *real = <uint64_t *>(self.core.env + ENV_CR)
        cdef uint32_t *h = <uint32_t *>(self.core.env + ENV_HFLAGS)
        real[0] = (real[0] & ~<uint64_t>0xe) | (cr0 & 0xe)
        h[0] = (h[0] & ~<uint32_t>(7 << HF_MP_SHIFT | HF_OSFXSR)) | (cr0 & 0xe) << (HF_MP_SHIFT - 1)
        if cr4 & CR4_OSFXSR:
            h[0] |= HF_OSFXSR

    def control(self, int index):
        """The real CR0, CR2, CR3 or CR4."""
        return (<uint64_t *>(self.core.env + ENV_CR))[index]

    def set_control(self, int index, uint32_t value):
        """Write the real CR0 or CR4 as MOV CRn does."""
        if self.core.uc == NULL:
            return
        uc_reg_write(<uc_engine *>self.core.uc, {0: UC_X86_REG_CR0, 4: UC_X86_REG_CR4}[index], &value)

    def system_table(self, str name):
        """(selector, base, limit) of the real ``gdtr``, ``idtr``, ``ldtr`` or ``tr``."""
        cdef uint8_t *cache = self.core.env + <int>{"gdtr": ENV_GDT, "idtr": ENV_IDT, "ldtr": ENV_LDT, "tr": ENV_TR}[name]
        return (<uint32_t *>cache)[0], (<uint64_t *>(cache + 8))[0], (<uint32_t *>(cache + 16))[0]

    # -------------------------------------------------------------- FPU

    def save_fpu(self):
        """The 512 bytes that FXSAVE stores of x87, MMX and SSE (Intel SDM 1, 10.5.1): the CPU is asked itself.

        Unicorn's FXSAVE leaves out where the last x87 instruction and its operand were, which its FNSAVE
        shows to a guest; so these registers are taken one by one.
        """
        cdef uint64_t value
        self.on_the_side(b"\x0f\xae\x05", 0)
        area = bytearray(self.memory.read(SIDE_DATA, 512))
        if self.core.uc != NULL:
            hide_ring(&self.core)
            for register, offset, size in LAST_X87_INSTRUCTION:
                value = 0
                uc_reg_read(<uc_engine *>self.core.uc, register, &value)
                area[offset : offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        return bytes(area)

    def load_fpu(self, area):
        """The reverse: FXRSTOR from 512 bytes."""
        cdef uint64_t value
        self.memory.write(SIDE_DATA, area)
        self.on_the_side(b"\x0f\xae\x0d", 0)
        if self.core.uc != NULL:
            for register, offset, size in LAST_X87_INSTRUCTION:
                value = int.from_bytes(area[offset : offset + size], "little")
                uc_reg_write(<uc_engine *>self.core.uc, register, &value)

    cdef on_the_side(self, bytes instruction, uint32_t cr0):
        """Run one instruction on SIDE_DATA, in the monitor's own address space; only the FPU can change."""
        cdef uint8_t saved[ENV_CR + 40]
        cdef Core *core = &self.core
        cdef uint64_t root = core.root, retired = core.retired, fence = core.fence
        cdef int stop = core.stop
        cdef bint window = core.window
        cdef Nested *nested = core.nested
        cdef uint32_t i
        if core.uc == NULL:
            return
        memcpy(saved, core.env, sizeof(saved))
        core.stop = 0
        core.window = 0     # whose interrupt waits for the guest's IF, not for ours
        core.fence = <uint64_t>-1
        core.limit = <uint64_t>-1
        core.holding = 0
        try:
            self.memory.write(PROBE_CODE, instruction + (<uint32_t>SIDE_DATA).to_bytes(4, "little") + b"\xcd\x80")
            self.set_eflags(0x202)
            for i in range(4):
                self.set_segment(i, 9 if i == 1 else 0x11, 0, 0xffffffff, 0xcfbb00 if i == 1 else 0xcfb300)
            self.set_fpu_control(cr0, CR4_OSFXSR)
            self.to_side()
            self.forget(PROBE_CODE, 64)
            self.set_eip(PROBE_CODE)
            while True:
                core.exit_code = 0
                core.block_count = 0
                uc_emu_start(<uc_engine *>core.uc, PROBE_CODE, 0, 0, 0)
                if core.exit_code == 0x175:
                    break
                if core.exit_code not in (SCAN, UNLEARNED, UNCHECKED):
                    raise HostError(f"FXSAVE or FXRSTOR on the side ended with exit {core.exit_code:#x}")
        finally:
            memcpy(core.env, saved, sizeof(saved))
            core.retired = retired
            core.fence = fence
            core.window = window
            core.stop |= stop
            self.from_side(root, nested)
