/* The programs' ELF images, and the table by which exec.c finds them (struct program, kernel.h). */
    .macro program name
    .pushsection .rodata.images, "a"
    .balign 4
1:  .incbin "\name"
2:  .popsection
    .pushsection .rodata.names, "a"
3:  .asciz "\name"
    .popsection
    .long 3b, 1b, 2b
    .endm

    .section .rodata, "a"
    .balign 4
    .globl programs, programs_end
programs:
#include "programs.inc"
programs_end:
