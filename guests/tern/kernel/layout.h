/* Where things are: addresses and selectors that C, assembly and the linker script agree on. */
#ifndef LAYOUT_H
#define LAYOUT_H

/* Physical address p of RAM is at KERNEL_BASE + p in every address space: the direct map. */
#define KERNEL_BASE 0xC0000000
#define KERNEL_LOAD 0x00100000    /* physical address of the kernel's image */
#define DIRECT_MAP_SIZE 0x38000000 /* 896 MiB; RAM above is left alone */

/* The boot page tables map this much, and become the first tables of the direct map. */
#define BOOT_MAP_SIZE 0x01000000
#define BOOT_TABLES 4

/* The GDT (segments.c). A data selector with RPL 3 may be used in ring 0, not the other way round. */
#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define USER_CODE 0x1b
#define USER_DATA 0x23
#define TSS_SELECTOR 0x28

/* Interrupt vectors: 0-31 are the processor's, then the 8259s', then the system call. */
#define IRQ_BASE 0x20
#define IRQ_COUNT 16
#define VECTOR_STUB_SIZE 16

#define KERNEL_STACK_SIZE 4096

#endif
