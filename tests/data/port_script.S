/* A multiboot kernel that plays a table of port accesses and prints what it saw.
 *
 * The table is the first multiboot module: entries of eight bytes,
 *
 *     u8 operation, u8 size, u16 port, u32 value          (little-endian)
 *
 * operation 0 ends the table, 1 reads the port, 2 writes `value` to it, 3 runs a loop of `value`
 * rounds, 4 opens the interrupt window for one interrupt, 5 reads the port (one byte) until none of the
 * bits of `value` is set, for at most 2^24 times.  Every read yields a line of eight hex
 * digits, every window the vector that came or ffffffff.  The lines come out of COM1 at the very
 * end, after the UART was set up again, because the UART itself may be what the table is about.
 * Then the kernel leaves through isa-debug-exit at 0xf4.
 *
 * Interrupts are off outside the window and nothing here sends an EOI: that is up to the table.
 */
        .set    COM1, 0x3f8
        .set    RESULTS, 0x400000               /* far above this image and its module */

        .section .multiboot, "a"
        .balign 4
        .long   0x1badb002, 0x3, -(0x1badb002 + 0x3)

        .text
        .globl  _start
_start:
        cli
        movl    $stack_top, %esp
        lgdt    gdt_pointer
        ljmp    $0x08, $1f
1:      movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        call    fill_idt
        movl    24(%ebx), %esi                  /* mods_addr */
        movl    (%esi), %esi                    /* mod_start of the first */
        movl    $RESULTS, %edi
next:   movzbl  (%esi), %eax
        movzbl  1(%esi), %ecx
        movzwl  2(%esi), %edx
        movl    4(%esi), %ebx
        addl    $8, %esi
        cmpb    $1, %al
        je      input
        cmpb    $2, %al
        je      output
        cmpb    $3, %al
        je      delay
        cmpb    $4, %al
        je      window
        cmpb    $5, %al
        je      until
        jmp     finish

input:  xorl    %eax, %eax
        cmpb    $2, %cl
        je      1f
        ja      2f
        inb     %dx, %al
        jmp     3f
1:      inw     %dx, %ax
        jmp     3f
2:      inl     %dx, %eax
3:      stosl
        jmp     next

output: movl    %ebx, %eax
        cmpb    $2, %cl
        je      1f
        ja      2f
        outb    %al, %dx
        jmp     next
1:      outw    %ax, %dx
        jmp     next
2:      outl    %eax, %dx
        jmp     next

delay:  decl    %ebx
        jnz     delay
        jmp     next

until:  movl    $0x1000000, %ecx
1:      inb     %dx, %al
        testb   %al, %bl
        loopnz  1b
        jmp     next

window: movl    $-1, vector
        sti
        nop
        nop
        cli
        movl    vector, %eax
        stosl
        jmp     next

/* One stub of eight bytes for each vector; the handler keeps IF clear on return. */
        .balign 8
stubs:
        .set    number, 0
        .rept   256
        .balign 8
        pushl   $number
        jmp     handler
        .set    number, number + 1
        .endr
        .balign 8
handler:
        popl    vector
        andl    $~0x200, 8(%esp)
        iretl

fill_idt:
        movl    $stubs, %eax
        movl    $idt, %edi
        movl    $256, %ecx
1:      movw    %ax, (%edi)
        movw    $0x08, 2(%edi)
        movw    $0x8e00, 4(%edi)
        movl    %eax, %edx
        shrl    $16, %edx
        movw    %dx, 6(%edi)
        addl    $8, %eax
        addl    $8, %edi
        loop    1b
        lidt    idt_pointer
        ret

/* Print every result: COM1 at 115200 8N1, FIFO off, polled. */
finish:
        movl    $setup, %esi
1:      movzwl  (%esi), %edx
        movb    2(%esi), %al
        outb    %al, %dx
        addl    $3, %esi
        cmpl    $setup_end, %esi
        jb      1b
        movb    $'\n', %al
        call    putc
        movb    $'#', %al
        call    putc
        movb    $'\n', %al
        call    putc
        movl    $RESULTS, %esi
2:      cmpl    %edi, %esi
        jae     4f
        lodsl
        movl    %eax, %ebx
        movl    $8, %ecx
3:      roll    $4, %ebx
        movl    %ebx, %eax
        andl    $15, %eax
        movb    digits(%eax), %al
        call    putc
        loop    3b
        movb    $'\n', %al
        call    putc
        jmp     2b
4:      movw    $0xf4, %dx
        xorl    %eax, %eax
        outl    %eax, %dx
5:      hlt
        jmp     5b

putc:   pushl   %eax
        movw    $COM1 + 5, %dx
1:      inb     %dx, %al
        testb   $0x20, %al
        jz      1b
        popl    %eax
        movw    $COM1, %dx
        outb    %al, %dx
        ret

        .section .rodata, "a"
digits: .ascii  "0123456789abcdef"
        .macro  set register, value
        .word   COM1 + \register
        .byte   \value
        .endm
setup:  set     3, 0x80
        set     0, 1
        set     1, 0
        set     3, 3
        set     1, 0
        set     2, 0
        set     4, 0x0b
setup_end:
        .balign 8
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt
idt_pointer:
        .word   256 * 8 - 1
        .long   idt

        .bss
        .balign 16
vector: .skip   4
idt:    .skip   256 * 8
        .skip   4096
stack_top:
