"""What libunicorn calls while the guest runs, without the GIL: events, blocks, hooks. Included by cpu.pyx."""

cdef void on_event(uc_engine *uc, uint32_t number, void *opaque) noexcept nogil:
    cdef Core *core = <Core *>opaque
    core.exit_code = number
    # Otherwise QEMU would look at V_IRQ once more before it stops, and so on for ever.
    core.interrupt_request[0] = 0
    uc_emu_stop(uc)


cdef inline uint32_t site_slot(Core *core, uint64_t hpa) noexcept nogil:
    cdef uint32_t i = <uint32_t>(hpa * <uint64_t>0x9e3779b97f4a7c15 >> 32)
    while True:
        i &= SITES - 1
        if core.sites[i] == hpa or core.sites[i] == 0:
            return i
        i += 1


cdef inline void hide_ring(Core *core) noexcept nogil:
    """Make the selector in CS at the last x87 instruction the one that the guest's kernel believes to have."""
    cdef uint16_t *selector = <uint16_t *>(core.env + core.fpu_selector)
    if core.kernel_ring and selector[0] & 3 == core.kernel_ring:
        selector[0] &= ~<uint16_t>3


cdef void on_site(uc_engine *uc, uint64_t address, uint32_t size, void *opaque) noexcept nogil:
    """An instruction at a hooked linear address is about to run: is the code there watched?"""
    cdef Core *core = <Core *>opaque
    cdef uint64_t *flags = <uint64_t *>(core.env + ENV_EFLAGS)
    cdef uint64_t frame = frame_of(core, <uint32_t>address)
    cdef uint64_t hpa = frame | (address & 0xfff)
    # For this callback QEMU has merged the arithmetic flags and DF into EFLAGS, where they would stay and
    # be added to all that follow, and has forgotten VM.
    flags[0] = (flags[0] & ~<uint64_t>(ARITHMETIC | DIRECTION_FLAG)) | (hflags(core) & VM_FLAG)
    if frame == 0:
        # Under nested paging: the guest took the page from its tables and did not flush. Nobody can say what runs here.
        core.exit_code = STALE
        uc_emu_stop(uc)
    elif core.sites[site_slot(core, hpa)] == hpa:
        core.exit_code = SITE
        uc_emu_stop(uc)
    else:
        hide_ring(core)
        core.noted = 1
        core.noted_pc = <uint32_t>address


cdef void on_probe(uc_engine *uc, uint64_t address, uint32_t size, void *opaque) noexcept nogil:
    """At start-up: stop before a hooked instruction."""
    (<Core *>opaque).exit_code = SITE
    uc_emu_stop(uc)


cdef void on_block(uc_engine *uc, uint64_t address, uint32_t size, void *opaque) noexcept nogil:
    """Runs before every block: the hottest lines of the project, so the common case makes no call."""
    cdef Core *core = <Core *>opaque
    cdef uint64_t retired = core.retired + core.block_length
    if (address | <uint64_t>size << 32) == core.last_block and retired <= core.limit:
        core.retired = retired
        core.block_count = core.block_length
        return
    on_other_block(uc, <uint32_t>address, size, core)


cdef void on_other_block(uc_engine *uc, uint32_t pc, uint32_t size, Core *core) noexcept nogil:
    """Not the block that ran last, or the limit is reached."""
    cdef uint32_t count = count_of(core, pc, size)
    core.block_pc = pc
    core.block_size = size
    core.block_length = count
    core.last_block = pc | <uint64_t>size << 32 if count else 0
    if core.retired + count > core.limit or count == 0:
        if not enter_slowly(core, pc, size, count):
            uc_emu_stop(uc)
            return
    core.retired += count
    core.block_count = count


cdef inline bint interruptible(Core *core) noexcept nogil:
    """Does the real IF let interrupts in, here and now?"""
    return (<uint32_t *>(core.env + ENV_EFLAGS))[0] & 0x200 and not hflags(core) & HF_INHIBIT_IRQ


cdef bint enter_slowly(Core *core, uint32_t pc, uint32_t size, uint32_t count) noexcept nogil:
    """The limit is reached: the fence, a stop request, or a run long enough to give the GIL away.

    Or it is 0, because an interrupt waits for IF. QEMU looks at V_IRQ only between chains of blocks, and
    that may be later than the guest's processor would.
    """
    if core.window and core.exit_code == 0 and interruptible(core):
        core.exit_code = VMEXIT_VINTR
        core.block_count = 0
        return False
    if core.exit_code == 0 and not core.stop and count and core.retired + count <= core.fence:
        if core.holding:
            core.holding = 0
            core.thread = PyEval_SaveThread()
        if core.window:
            return True     # the limit stays 0, so the next block comes here again
        core.limit = core.fence
        fence_memory()
        if not core.stop:
            return True
    if core.exit_code == 0:
        core.exit_code = STOP if core.stop else (FENCE if count else UNLEARNED)
        core.new_pc = pc
        core.new_size = size
        core.block_count = 0
    return False


cdef bint interesting(Core *core, uint32_t pc, uint32_t size) noexcept nogil:
    """May the block hold an instruction that is to be announced?

    As far as the block consists of plain 32-bit instructions (``encoding.pxi``), only their opcodes count. From the
    first other instruction on, every byte could be one.
    """
    cdef uint64_t frame = frame_of(core, pc)
    cdef uint32_t offset = pc & 0xfff
    cdef uint32_t here = min(size, 4096 - offset)
    cdef uint32_t at = 0
    cdef uint32_t begin, length, opcode
    cdef uint16_t forms
    cdef uint8_t joined[8192]
    cdef const uint8_t *code
    if not core.announcing or core.lent:
        return False
    if frame < MONITOR or size > sizeof(joined):
        return True
    code = core.ram + (frame - MONITOR) + offset
    if here < size:
        memcpy(joined, code, here)
        frame = frame_of(core, pc + here)
        if frame < MONITOR:
            return True
        memcpy(joined + here, core.ram + (frame - MONITOR), size - here)
        code = joined
    if hflags(core) & HF_CS32:
        while at < size:
            length = plain_instruction(code + at, size - at, &opcode)
            if length == 0:
                break
            begin = at + opcode
            if code[begin] == 0x0f:
                begin += 1
                forms = core.two_byte[code[begin]]
            else:
                forms = core.one_byte[code[begin]]
            if forms and matters(code + begin, size - begin, forms):
                return True
            at += length
    for begin in range(at, size):
        forms = core.one_byte[code[begin]]
        if begin > at and code[begin - 1] == 0x0f:
            forms |= core.two_byte[code[begin]]
        if forms and matters(code + begin, size - begin, forms):
            return True
    return False


cdef inline bint matters(const uint8_t *opcode, uint32_t left, uint16_t forms) noexcept nogil:
    """Has the instruction with this opcode one of the forms, as far as the ``left`` bytes of the block say?"""
    return forms & ANY_FORM or (left > 1 and opcode[1] < 0xc0 and forms >> (opcode[1] >> 3 & 7) & 1)


cdef inline bint holds_hook(Core *core, uint32_t pc, uint32_t size) noexcept nogil:
    cdef uint32_t i
    for i in range(core.hook_count):
        if core.hooked[i] - pc < size:
            return True
    return False


cdef inline bint newly_code(Core *core, uint32_t pc) noexcept nogil:
    """Under nested paging: is this address, from which a block was translated, in a frame that is not marked as code?"""
    cdef uint64_t frame = frame_of(core, pc)
    return frame >= MONITOR and not nested_frame(core.nested, <uint32_t>(frame - MONITOR)) & NESTED_CODE


cdef void on_new_block(uc_engine *uc, uc_tb *block, uc_tb *previous, void *opaque) noexcept nogil:
    cdef Core *core = <Core *>opaque
    cdef uint32_t pc = <uint32_t>block.pc
    cdef bint unchecked = core.unchecked[0] and holds_hook(core, pc, block.size)
    cdef bint new
    learn(core, pc, block.size, block.icount)
    core.unchecked[0] = core.may_leave_checks
    new = core.nested != NULL and not core.lent and (
        newly_code(core, pc) or newly_code(core, pc + block.size - 1))
    if unchecked or new or interesting(core, pc, block.size):
        core.exit_code = UNCHECKED if unchecked else SCAN
        core.new_pc = pc
        core.new_size = block.size
        core.block_count = 0
        uc_emu_stop(uc)


cdef void on_giving_up(void *opaque) noexcept nogil:
    """The translator has called abort()."""
    cdef Core *core = <Core *>opaque
    core.exit_code = UNTRANSLATABLE
    core.block_count = 0
    core.translated += 8    # it has taken a little of the buffer all the same
    hv_arm(NULL, NULL)
    uc_emu_stop(<uc_engine *>core.uc)
    leave_run(core.env - env_offset)
