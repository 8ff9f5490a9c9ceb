/*
 * Reading order 1. From the boot loader to C.
 *
 * Multiboot 1 leaves us in 32-bit protected mode, without paging, at the physical address of our
 * code, with EAX = magic and EBX = physical address of the boot information. Here we map the first
 * 16 MiB twice, at 0 (so that the next instruction exists) and at KERNEL_BASE, and jump up there.
 * paging.c removes the lower half later.
 */
#include "layout.h"

#define MULTIBOOT_MAGIC 0x1BADB002
#define MULTIBOOT_FLAGS 0x00000003 /* align modules to pages; tell us about memory */

#define CR0_WP 0x00010000 /* read-only pages are read-only for ring 0 too */
#define CR0_PG 0x80000000
#define CR0_EM 0x00000004 /* no FPU yet (fpu.c): its instructions raise #NM */

#define PHYSICAL(symbol) ((symbol) - KERNEL_BASE)

    .section .multiboot, "ax"
    .balign 4
    .long MULTIBOOT_MAGIC
    .long MULTIBOOT_FLAGS
    .long -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

    .text
    .globl start
start:
    cld
    movl %eax, %ebp /* magic; EBX stays the boot information */

    /* boot_tables[i] = page i, present and writable */
    movl $PHYSICAL(boot_tables), %edi
    movl $0x003, %eax
1:  stosl
    addl $4096, %eax
    cmpl $(BOOT_MAP_SIZE + 0x003), %eax
    jb 1b

    /* kernel_directory[i] = kernel_directory[768 + i] = boot_tables' page i */
    movl $PHYSICAL(kernel_directory), %edi
    movl $(PHYSICAL(boot_tables) + 0x003), %eax
    movl $BOOT_TABLES, %ecx
2:  movl %eax, (KERNEL_BASE >> 20)(%edi)
    stosl
    addl $4096, %eax
    loop 2b

    movl $PHYSICAL(kernel_directory), %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $(CR0_PG | CR0_WP | CR0_EM), %eax
    movl %eax, %cr0
    movl $3f, %eax
    jmp *%eax

3:  movl $(boot_stack + KERNEL_STACK_SIZE), %esp
    pushl %ebx
    pushl %ebp
    xorl %ebp, %ebp /* ends every backtrace */
    call kernel_main
    hlt

    .section .bss.pages, "aw", @nobits
    .balign 4096
    .globl kernel_directory, boot_tables, boot_stack
kernel_directory:
    .skip 4096
boot_tables:
    .skip 4096 * BOOT_TABLES
boot_stack: /* becomes the stack of the idle loop */
    .skip KERNEL_STACK_SIZE
