/*
 * Reading order 15. Page directories and tables (Intel SDM 3A, 4.3).
 *
 * Every directory maps the kernel in its upper quarter, by the same entries: they are made here at
 * boot, before the first process, and never change. Its lower three quarters are a program's.
 */
#include "cpu.h"
#include "kernel.h"

#define INDEX(address) ((uint32_t)(address) >> 22)
#define KERNEL_INDEX INDEX(KERNEL_BASE)
#define LARGE_SIZE 0x400000
#define CR4_PSE 0x10

extern entry_t boot_tables[BOOT_TABLES * 1024];

static const entry_t *loaded = kernel_directory;

/* Does nothing if it is loaded already: writing CR3 costs all cached translations. */
void load_directory(const entry_t *directory)
{
    if (directory == loaded)
        return;
    loaded = directory;
    write_cr3(to_physical(directory));
}

/* The boot map becomes the beginning of the direct map: no RAM, no entry; constants are read-only. */
static void protect_boot_map(void)
{
    extern const char kernel_start[], read_only_end[];
    uint32_t read_only = to_physical(kernel_start), writable = to_physical(read_only_end);

    for (uint32_t at = 0; at < BOOT_MAP_SIZE; at += PAGE_SIZE) {
        if (at >= ram_end)
            boot_tables[at / PAGE_SIZE] = 0;
        else if (at >= read_only && at < writable)
            boot_tables[at / PAGE_SIZE] &= ~PTE_WRITABLE;
    }
}

static entry_t direct_map_table(uint32_t physical)
{
    uint32_t frame = frame_allocate_zeroed();
    entry_t *table = to_virtual(frame);

    if (!frame)
        panic("no memory for page tables");
    for (int i = 0; i < 1024 && physical < ram_end; i++, physical += PAGE_SIZE)
        table[i] = physical | PTE_PRESENT | PTE_WRITABLE;
    return frame | PTE_PRESENT | PTE_WRITABLE;
}

void paging_init(void)
{
    protect_boot_map();
    if (options.pse)
        set_cr4(CR4_PSE);
    for (uint32_t at = BOOT_MAP_SIZE; at < ram_end; at += LARGE_SIZE) {
        bool large = options.pse && ram_end - at >= LARGE_SIZE;
        kernel_directory[KERNEL_INDEX + INDEX(at)] =
            large ? at | PTE_LARGE | PTE_PRESENT | PTE_WRITABLE : direct_map_table(at);
    }
    for (uint32_t i = 0; i < INDEX(BOOT_MAP_SIZE); i++)
        kernel_directory[i] = 0; /* the lower copy of the boot map has done its service */
    write_cr3(to_physical(kernel_directory));
}

/* A directory that maps nothing but the kernel, or NULL. */
entry_t *directory_create(void)
{
    uint32_t frame = frame_allocate();
    entry_t *directory = to_virtual(frame);

    if (!frame)
        return NULL;
    memset(directory, 0, KERNEL_INDEX * sizeof *directory);
    memcpy(directory + KERNEL_INDEX, kernel_directory + KERNEL_INDEX,
           (1024 - KERNEL_INDEX) * sizeof *directory);
    return directory;
}

/*
 * The page table entry for an address of a program. NULL if there is no table for it and none is to
 * be created, or no memory for it. Rights are checked in this entry only: the directory allows all.
 */
entry_t *page_entry(entry_t *directory, uint32_t address, bool create)
{
    entry_t *entry = &directory[INDEX(address)];

    if (!(*entry & PTE_PRESENT)) {
        uint32_t frame = create ? frame_allocate_zeroed() : 0;
        if (!frame)
            return NULL;
        *entry = frame | PTE_PRESENT | PTE_WRITABLE | PTE_USER;
    }
    entry_t *table = to_virtual(page_down(*entry));
    return &table[(address / PAGE_SIZE) % 1024];
}
