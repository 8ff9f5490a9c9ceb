/*
 * Reading order 7. Where the processor arrives on an exception, an interrupt or a system call. Each
 * vector has a stub of VECTOR_STUB_SIZE bytes that completes the struct trap_frame (kernel.h) to the
 * same shape. Every segment load and every privileged instruction may cost a trap to a monitor, so
 * there is no more here than is needed; FS and GS belong to the program, switch.S looks after them.
 */
#include "layout.h"

#define SYSCALL_VECTOR 0x80

    .text
    .globl vector_stubs, syscall_stub, trap_return

    .balign VECTOR_STUB_SIZE
vector_stubs:
    .set vector, 0
    .rept IRQ_BASE + IRQ_COUNT
    .balign VECTOR_STUB_SIZE
    /* #DF #TS #NP #SS #GP #PF #AC come with an error code */
    .if vector != 8 && (vector < 10 || vector > 14) && vector != 17
    pushl $0
    .endif
    pushl $vector
    jmp trap_entry
    .set vector, vector + 1
    .endr

    .balign VECTOR_STUB_SIZE
syscall_stub:
    pushl $0
    pushl $SYSCALL_VECTOR

trap_entry:
    pushl %ds
    pushl %es
    pushal
    movl $KERNEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    cld
    pushl %esp
    call trap
    addl $4, %esp

trap_return: /* a new process starts here, with its trap frame on the stack (process.c) */
    popal
    popl %es
    popl %ds
    addl $8, %esp
    iret
