"""How many instructions each translated block has: the table of blocks. Included by cpu.pyx.

Blocks are identified by the *physical* frames of their code, offset and size, since the same address
holds different code in different address spaces. A small table in front (``recent``) is keyed by
linear address and valid for one ``generation`` of the shadow tables.
"""

cdef inline uint64_t frame_of(Core *core, uint32_t gva) noexcept nogil:
    """Host-physical frame of a linear address under the current tables; 0 if unmapped."""
    cdef uint64_t entry
    if core.nested != NULL:
        return nested_entry(core.nested, gva) & ADDRESS
    entry = (<uint64_t *>(core.monitor + core.root))[gva >> 30]
    if not entry & 1:
        return 0
    entry = (<uint64_t *>(core.monitor + (entry & ADDRESS)))[gva >> 21 & 511]
    if not entry & 1:
        return 0
    entry = (<uint64_t *>(core.monitor + (entry & ADDRESS)))[gva >> 12 & 511]
    return entry & ADDRESS if entry & 1 else 0


cdef inline void next_generation(Core *core) noexcept nogil:
    """What was known of linear addresses holds no longer."""
    core.generation += 1
    core.last_block = 0


cdef inline uint32_t hflags(Core *core) noexcept nogil:
    return (<uint32_t *>(core.env + ENV_HFLAGS))[0]


cdef inline uint32_t *hflags2(Core *core) noexcept nogil:
    return <uint32_t *>(core.env + ENV_HFLAGS2)


cdef inline void key_of(Core *core, uint32_t pc, uint32_t size, uint64_t *key, uint32_t *second) noexcept nogil:
    cdef uint64_t frame = frame_of(core, pc)
    key[0] = (frame >> 12) << 32 | <uint64_t>(pc & 0xfff) << 20 | size << 1 | (hflags(core) & HF_CS32) >> 4
    second[0] = 0
    if (pc & 0xfff) + size > 4096:
        second[0] = <uint32_t>(frame_of(core, (pc | 0xfff) + 1) >> 12) + 1


cdef inline uint64_t slot_of(Core *core, uint64_t key, uint32_t second) noexcept nogil:
    cdef uint64_t i = ((key ^ second * <uint64_t>0x9e3779b9) * <uint64_t>0x9e3779b97f4a7c15) >> 20
    cdef Block *block
    while True:
        i &= core.table_mask
        block = &core.table[i]
        if block.count == 0 or (block.key == key and block.second == second):
            return i
        i += 1


cdef int grow(Core *core) noexcept nogil:
    cdef Block *old = core.table
    cdef uint64_t size = core.table_mask + 1
    cdef uint64_t i
    cdef Block *new
    new = <Block *>calloc(size * 2, sizeof(Block))
    if new == NULL:
        return -1
    core.table = new
    core.table_mask = size * 2 - 1
    for i in range(size):
        if old[i].count:
            core.table[slot_of(core, old[i].key, old[i].second)] = old[i]
    free(old)
    return 0


cdef void learn(Core *core, uint32_t pc, uint32_t size, uint32_t count) noexcept nogil:
    """Remember how many instructions a block has."""
    cdef uint64_t key
    cdef uint32_t second
    cdef uint64_t i
    cdef Recent *recent = &core.recent[(pc ^ pc >> 12 ^ size << 5) & (RECENT - 1)]
    recent.generation = 0
    core.translated += count
    key_of(core, pc, size, &key, &second)
    i = slot_of(core, key, second)
    if core.table[i].count == 0:
        if core.table_used * 2 > core.table_mask:
            if grow(core) < 0:
                return
            i = slot_of(core, key, second)
        core.table_used += 1
    core.table[i].key = key
    core.table[i].second = second
    core.table[i].count = count


cdef inline uint32_t count_of(Core *core, uint32_t pc, uint32_t size) noexcept nogil:
    """Instructions in a block; 0 if it was never learned."""
    cdef uint32_t tagged = size << 1 | (hflags(core) & HF_CS32) >> 4
    cdef Recent *recent = &core.recent[(pc ^ pc >> 12 ^ size << 5) & (RECENT - 1)]
    if recent.pc == pc and recent.size == tagged and recent.generation == core.generation:
        return recent.count
    return look_up(core, pc, size, recent, tagged)


cdef uint32_t look_up(Core *core, uint32_t pc, uint32_t size, Recent *recent, uint32_t tagged) noexcept nogil:
    """The same from the whole table."""
    cdef uint64_t key
    cdef uint32_t second
    key_of(core, pc, size, &key, &second)
    recent.pc = pc
    recent.size = tagged
    recent.count = core.table[slot_of(core, key, second)].count
    recent.generation = core.generation if recent.count else 0
    return recent.count
