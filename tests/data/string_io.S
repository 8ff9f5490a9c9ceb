/* A multiboot kernel that moves sectors with string instructions of every kind, while the timer ticks
 * every few microseconds: what is moved, and where the interrupts fall, is in its memory.
 */
        .set    SECTORS, 0x200000               /* what is read comes here */
        .set    DATA, 0x1f0

        .section .multiboot, "a"
        .balign 4
        .long   0x1badb002, 0x3, -(0x1badb002 + 0x3)

        .macro  port number, value
        movw    $\number, %dx
        movb    $\value, %al
        outb    %al, %dx
        .endm

        .macro  command code, count, sector
        port    0x1f2, \count
        port    0x1f3, \sector
        port    0x1f4, 0
        port    0x1f5, 0
        port    0x1f6, 0xe0
        port    0x1f7, \code
        .endm

        .macro  ready                           /* wait until not busy, then DX is the data register */
        movw    $0x3f6, %dx
1:      inb     %dx, %al
        testb   $0x80, %al
        jnz     1b
        movw    $DATA, %dx
        .endm

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
        movl    $tick, %eax
        movw    %ax, idt + 0x20 * 8
        movw    $0x08, idt + 0x20 * 8 + 2
        movw    $0x8e00, idt + 0x20 * 8 + 4
        shrl    $16, %eax
        movw    %ax, idt + 0x20 * 8 + 6
        lidt    idt_pointer
        port    0x20, 0x11
        port    0x21, 0x20
        port    0x21, 0x04
        port    0x21, 0x01
        port    0x21, 0xfe
        port    0x43, 0x34                      /* mode 2, every 4 ticks of 838 ns */
        port    0x40, 4
        port    0x40, 0
        cld
        movl    $SECTORS, %edi
        command 0x20, 2, 1
        ready
        movl    $256, %ecx
        rep insw
        sti
        ready
        movl    $128, %ecx
        rep insl

        addl    $0xc01, %edi                    /* misaligned, and across a page */
        command 0x20, 2, 3
        ready
        movl    $100, %ecx
        rep insw
        movl    $300, %ecx                      /* more than there is: the rest are zeros */
        rep insw
        ready
        movl    $10, %ecx
        rep insw
        cli                                     /* downwards, and one at a time */
        std
        movl    $20, %ecx
        rep insw
        cld
        insw
        insl
        movl    $0, %ecx
        rep insl
        sti
        movl    $1000, %ecx
        rep insl

        command 0x30, 2, 5
        ready
        movl    $SECTORS + 3, %esi
        movl    $256, %ecx
        rep outsw
        ready
        movl    $SECTORS + 0xf00, %esi
        movl    $128, %ecx
        rep outsl
        ready

        command 0x20, 1, 6                      /* over the code of the page that does it */
        ready
        movl    $buffer, %edi
        movl    $256, %ecx
        rep insw
        command 0x20, 1, 2                      /* and to where there is no memory */
        ready
        movl    $0xe0000000, %edi
        movl    $256, %ecx
        rep insw
        cli
        movw    $0xf4, %dx
        movl    ticks, %eax
        outl    %eax, %dx
2:      hlt
        jmp     2b
buffer: .skip   512

tick:   incl    ticks
        pushl   %eax
        movb    $0x20, %al
        outb    %al, $0x20
        popl    %eax
        iretl

        .section .rodata, "a"
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
ticks:  .skip   4
idt:    .skip   256 * 8
        .skip   4096
stack_top:
