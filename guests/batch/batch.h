/*
 * batch: runs thousands of small experiments that a Multiboot module describes, and tells what came of each.
 *
 * This kernel knows nothing of what is tried. The module holds the image of all memory that matters (descriptor
 * tables, TSSs, stacks, data: its *regions*, of which the first is the page table of low memory) and *cases*:
 * the registers to begin with, and words of memory to change before. For each case the regions are put back,
 * the words changed, and the processor sent there; the first event that comes ends the case, and a *result*
 * is written to RESULTS. At the end all results go out over the serial port, if the module asks for it.
 *
 * RF in the saved EFLAGS and EXT in error codes are cleared in memory and told apart, since QEMU does not set
 * them as the manual says, and no checksum should hang on them.
 */
#ifndef BATCH_H
#define BATCH_H

#include <stdint.h>

enum {
    MAGIC = 0x48435442,
    TO_SERIAL = 1, /* send the results */
    WITH_MEMORY = 2, /* and, after each, the regions as they are then */
    MOST_REGIONS = 8,
    MOST_POKES = 32,
    RESULTS = 0x800000,
    STUB_SIZE = 16,
};

/* Selectors and addresses that module and kernel agree on. */
enum { K_CODE = 0x08, K_DATA = 0x10, K_CODE_16 = 0x48, K_DATA_16 = 0x50, TSS_A = 0x28, BASED_DATA = 0xf3 };
enum { GDT = 0x5f0000, IDT = 0x5f1000, TSSS = 0x5f2000, DIRECTORY = 0x5f4000, TSS_SPACE = 0x100, TSS_COUNT = 4 };
enum { LANDING = 0x7000, SECOND_LANDING = 0x10000, AFTER_GATE = 0x7400, AFTER_GATE_WITH_ERROR = 0x7800, AFTER_GATE_END = 0x7c00,
       ARENA = 0xa000, ARENA_SIZE = 0x4000 };

struct region {
    uint32_t to, size, from; /* `from` is an offset in the module; sizes are multiples of 16 */
};

struct batch {
    uint32_t magic, flags, count, cases, region_count;
    struct region regions[MOST_REGIONS];
};

struct poke {
    uint32_t to, value;
};

struct test_case {
    uint32_t gs, fs, es, ds, edi, esi, ebp, ebx, edx, ecx, eax, eip, cs, eflags, esp, ss;
    uint32_t v86_es, v86_ds, v86_fs, v86_gs;
    uint32_t cr0, cr4, gdt_limit, idt_limit, local, poke_count;
    struct poke pokes[MOST_POKES];
};

struct result {
    uint32_t vector, error, hidden; /* hidden: RF, EXT << 1 */
    uint32_t eip, cs, eflags, esp, ss, v86_es, v86_ds, v86_fs, v86_gs;
    uint32_t edi, esi, ebp, ebx, edx, ecx, eax;
    uint32_t ds_es, fs_gs;
    uint32_t cr0, cr2, cr3, cr4, dr6, dr7;
    uint32_t sums[MOST_REGIONS]; /* of each region */
};

struct tss {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
    uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, bitmap_base;
};

/* What the handlers push, and the processor before them. */
struct frame {
    uint32_t gs, fs, es, ds, edi, esi, ebp, esp, ebx, edx, ecx, eax, vector, pushed[];
};

#endif
