/* From the Multiboot loader to main, and the stubs of the sixteen interrupts. */
#include "kit.inc"
        multiboot_header
        .globl  start
start:  cli
        movl    $stack_top, %esp
        lgdt    gdt_pointer
        ljmp    $0x08, $1f
1:      load_data_segments 0x10
        movl    $stubs, %eax
        movl    $idt + 0x20 * 8, %edi
        movl    $16, %ecx
2:      movw    %ax, (%edi)
        movw    $0x08, 2(%edi)
        movw    $0x8e00, 4(%edi)
        movl    %eax, %edx
        shrl    $16, %edx
        movw    %dx, 6(%edi)
        addl    $16, %eax
        addl    $8, %edi
        loop    2b
        lidt    idt_pointer
        call    main
        leave_machine

        .balign 16
stubs:
        .set    line, 0
        .rept   16
        .balign 16
        pushal
        pushl   $line
        call    interrupt
        addl    $4, %esp
        popal
        iretl
        .set    line, line + 1
        .endr

        .section .rodata, "a"
        .balign 8
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt
idt_pointer:
        .word   0x30 * 8 - 1
        .long   idt

        .bss
        .balign 16
idt:    .skip   0x30 * 8
        .skip   16384
stack_top:
