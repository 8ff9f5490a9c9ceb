/*
 * Reading order 5. Segmentation, as little of it as the processor allows: flat segments for rings 0
 * and 3, and one task state segment, which only says where the kernel stack is.
 */
#include "cpu.h"
#include "kernel.h"

/* Intel SDM 3A, 8.2.1. Only esp0, ss0 and the (absent) I/O bitmap matter to us. */
struct tss {
    uint32_t link;
    uint32_t esp0, ss0;
    uint32_t unused[22];
    uint16_t trap, io_bitmap;
};

/*
 * The descriptor tables have pages of their own that nobody writes to after boot: the Accessed bits
 * are set from the start, and the TSS, which changes with every process, is elsewhere.
 */
static uint64_t gdt[] __attribute__((section(".descriptors"), aligned(8))) = {
    0,
    0x00cf9b000000ffff, /* KERNEL_CODE: base 0, limit 4 GiB, DPL 0, readable, accessed */
    0x00cf93000000ffff, /* KERNEL_DATA: the same, writable */
    0x00cffb000000ffff, /* USER_CODE: DPL 3 */
    0x00cff3000000ffff, /* USER_DATA */
    0,                  /* TSS_SELECTOR */
};

static struct tss tss;

static uint64_t tss_descriptor(uint32_t base, uint32_t limit)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)0x89 << 40 /* 32-bit TSS */
           | (uint64_t)(base >> 24) << 56;
}

void segments_init(void)
{
    tss.ss0 = KERNEL_DATA;
    tss.io_bitmap = sizeof tss; /* beyond the limit: no port is open to ring 3 */
    gdt[TSS_SELECTOR / 8] = tss_descriptor((uint32_t)&tss, sizeof tss - 1);

    lgdt(gdt, sizeof gdt);
    __asm__ volatile("ljmp %0, $1f\n1:\n\t"
                     "movl %1, %%ds\n\tmovl %1, %%es\n\tmovl %1, %%ss\n\t"
                     "movl %2, %%fs\n\tmovl %2, %%gs"
                     :
                     : "i"(KERNEL_CODE), "r"(KERNEL_DATA), "r"(0)
                     : "memory");
    ltr(TSS_SELECTOR);
}

/* The stack to which the processor switches when ring 3 is interrupted. */
void set_kernel_stack(void *top)
{
    tss.esp0 = (uint32_t)top;
}
