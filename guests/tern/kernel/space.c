/*
 * Reading order 16. The address space of a program: regions say what may be there, the page tables
 * what is. A page comes into being, filled with zeros, when it is first touched; after fork() both
 * sides share their pages until one of them writes.
 *
 * Invariants: a present entry lies in a region; it is writable only if its region is and its frame
 * has no other reference; an entry of a writable region that is not writable has PTE_COPY.
 */
#include "cpu.h"
#include "kernel.h"

bool space_create(struct space *space)
{
    memset(space, 0, sizeof *space);
    space->directory = directory_create();
    space->regions[REGION_STACK] = (struct region){USER_END - STACK_SIZE, USER_END, true};
    return space->directory != NULL;
}

static struct region *find_region(struct space *space, uint32_t address)
{
    for (int i = 0; i < MAX_REGIONS; i++)
        if (address >= space->regions[i].start && address < space->regions[i].end)
            return &space->regions[i];
    return NULL;
}

bool space_allows(struct space *space, uint32_t address, bool write)
{
    struct region *region = find_region(space, address);

    return region && (region->writable || !write);
}

static bool add_zero_page(struct space *space, entry_t *entry, bool writable)
{
    uint32_t frame = frame_allocate_zeroed();

    if (!frame)
        return false;
    *entry = frame | PTE_PRESENT | PTE_USER | (writable ? PTE_WRITABLE : 0);
    space->pages++;
    return true;
}

/* End the sharing of a page that is about to be written to. */
static bool own_page(entry_t *entry, uint32_t address)
{
    uint32_t frame = page_down(*entry), copy = frame;

    if (frame_references(frame) > 1) {
        if ((copy = frame_allocate()) == 0)
            return false;
        memcpy(to_virtual(copy), to_virtual(frame), PAGE_SIZE);
        frame_release(frame);
    }
    *entry = copy | PTE_PRESENT | PTE_USER | PTE_WRITABLE;
    invlpg(address);
    return true;
}

/*
 * Make the page at address present, and fit for writing if asked. Returns where the kernel sees that
 * byte in the direct map, or NULL if the access is not allowed or memory has run out.
 */
void *space_page(struct space *space, uint32_t address, bool write)
{
    struct region *region = find_region(space, address);

    if (!region || (write && !region->writable))
        return NULL;
    entry_t *entry = page_entry(space->directory, address, true);
    if (!entry)
        return NULL;
    if (!(*entry & PTE_PRESENT)) {
        if (!add_zero_page(space, entry, region->writable))
            return NULL;
    } else if (write && !(*entry & PTE_WRITABLE)) {
        if (!own_page(entry, address))
            return NULL;
    }
    return to_virtual(page_down(*entry) + address % PAGE_SIZE);
}

/*
 * Make a range ready for the kernel to read, or write, at its address in the current space. What is
 * ready stays so: only the program itself could change that, and it waits for the kernel.
 */
bool space_prepare(struct space *space, uint32_t address, uint32_t length, bool write)
{
    if (address >= USER_END || length > USER_END - address)
        return false;
    for (uint32_t page = page_down(address); page < address + length; page += PAGE_SIZE)
        if (!space_page(space, page, write))
            return false;
    return true;
}

/* Copy a string in. Returns its length without the NUL, or an error. */
int space_string(struct space *space, uint32_t address, char *to, uint32_t size)
{
    const char *from = NULL;

    for (uint32_t n = 0; n < size; n++) {
        if (n == 0 || (address + n) % PAGE_SIZE == 0)
            from = space_page(space, address + n, false);
        if (!from)
            return -E_FAULT;
        if ((to[n] = *from++) == 0)
            return n;
    }
    return -E_TOOBIG;
}

/* Take [start, end), whole pages, out of the space. */
static void unmap(struct space *space, uint32_t start, uint32_t end)
{
    for (uint32_t address = start; address < end; address += PAGE_SIZE) {
        entry_t *entry = page_entry(space->directory, address, false);
        if (!entry || !(*entry & PTE_PRESENT))
            continue;
        frame_release(page_down(*entry));
        *entry = 0;
        space->pages--;
        invlpg(address);
    }
}

/* Move the end of the heap. Returns where it was, or an error. */
int32_t space_grow(struct space *space, int32_t bytes)
{
    struct region *heap = &space->regions[REGION_HEAP];
    uint32_t before = space->heap_end, after = before + bytes;

    if (bytes < 0 ? after > before || after < heap->start
                  : after < before || after > USER_END - STACK_SIZE - PAGE_SIZE)
        return -E_MEMORY;
    unmap(space, page_up(after), heap->end > page_up(after) ? heap->end : page_up(after));
    heap->end = page_up(after);
    space->heap_end = after;
    return before;
}

/* Share one page table's pages with the other space. */
static bool share_table(struct space *to, entry_t *from, uint32_t address)
{
    for (int i = 0; i < 1024; i++, from++, address += PAGE_SIZE) {
        if (!(*from & PTE_PRESENT))
            continue;
        entry_t *entry = page_entry(to->directory, address, true);
        if (!entry)
            return false;
        if (*from & PTE_WRITABLE)
            *from = (*from & ~PTE_WRITABLE) | PTE_COPY;
        *entry = *from;
        frame_share(page_down(*from));
        to->pages++;
    }
    return true;
}

/* A copy of the current space, for fork(). */
bool space_copy(struct space *to, struct space *from)
{
    bool complete = true;

    if (!space_create(to))
        return false;
    memcpy(to->regions, from->regions, sizeof to->regions);
    to->heap_end = from->heap_end;
    for (uint32_t address = 0; complete && address < USER_END; address += 1024 * PAGE_SIZE) {
        entry_t *table = page_entry(from->directory, address, false);
        if (table)
            complete = share_table(to, table, address);
    }
    write_cr3(read_cr3()); /* we have lost the right to write to many pages */
    if (!complete)
        space_destroy(to);
    return complete;
}

/* Must hold: the space is not loaded. */
void space_destroy(struct space *space)
{
    if (!space->directory)
        return;
    for (uint32_t address = 0; address < USER_END; address += 1024 * PAGE_SIZE) {
        entry_t *table = page_entry(space->directory, address, false);
        if (!table)
            continue;
        for (int i = 0; i < 1024; i++)
            if (table[i] & PTE_PRESENT)
                frame_release(page_down(table[i]));
        frame_release(to_physical(table));
    }
    frame_release(to_physical(space->directory));
    space->directory = NULL;
    space->pages = 0;
}
