/* One line for each hole that Robin and Irvine found in x86 ("Analysis of the Intel Pentium's Ability to Support
 * a Secure Virtual Machine Monitor", USENIX Security 2000): what an instruction tells a kernel of its own ring, its
 * own tables and its own flags. On a processor of its own every line is true. A kernel that was moved to
 * ring 1 gets no exception, and another answer.
 */
#include "kit.inc"
        .set    IF, 0x200
        .set    IOPL, 0x3000
        .set    ZF, 0x40

        .set    CODE, 0x08
        .set    DATA, 0x10
        .set    LDT, 0x18
        .set    TSS, 0x20
        .set    GATE, 0x28

        multiboot_header
/* Print a name, and EAX in hexadecimal. */
        .macro  tell name
        call    report
        .asciz  "\name"
        .endm

/* ZF as 0 or 1 in EAX. */
        .macro  zero_flag
        setz    %al
        movzbl  %al, %eax
        .endm

        .globl  start
start:  cli
        cld
        movl    $stack_top, %esp
        /* The addresses in the gates, the LDT's and the TSS's descriptor. */
        movl    $through_gate, %eax
        movw    %ax, gdt + GATE
        shrl    $16, %eax
        movw    %ax, gdt + GATE + 6
        movl    $breakpoint, %eax
        movw    %ax, idt + 3 * 8
        shrl    $16, %eax
        movw    %ax, idt + 3 * 8 + 6
        movl    $local, %eax
        movw    %ax, gdt + LDT + 2
        shrl    $16, %eax
        movb    %al, gdt + LDT + 4
        movl    $task, %eax
        movw    %ax, gdt + TSS + 2
        shrl    $16, %eax
        movb    %al, gdt + TSS + 4
        lgdt    gdt_pointer
        lidt    idt_pointer
        ljmp    $CODE, $1f
1:      movl    $DATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    $LDT, %eax
        lldt    %ax
        movl    $TSS, %eax
        ltr     %ax

        /* The flags. */
        cli
        pushfl
        popl    %eax
        andl    $IF, %eax
        tell    "pushf after cli: IF"
        pushl   $IOPL | 2
        popfl
        pushfl
        popl    %eax
        andl    $IOPL, %eax
        tell    "popf: IOPL"
        pushl   $2
        popfl
        movb    $0xff, %al                      /* the 8259s may keep quiet meanwhile */
        outb    %al, $0x21
        outb    %al, $0xa1
        sti
        pushl   $2
        popfl
        pushfl
        popl    %eax
        andl    $IF, %eax
        tell    "popf after sti: IF"
        cli

        /* The registers of the system. */
        sgdt    scratch
        movl    scratch + 2, %eax
        subl    $gdt, %eax
        tell    "sgdt: base"
        movzwl  scratch, %eax
        tell    "sgdt: limit"
        sidt    scratch
        movl    scratch + 2, %eax
        subl    $idt, %eax
        tell    "sidt: base"
        movzwl  scratch, %eax
        tell    "sidt: limit"
        xorl    %eax, %eax
        sldt    %ax
        tell    "sldt"
        xorl    %eax, %eax
        str     %ax
        tell    "str"
        xorl    %eax, %eax
        smsw    %ax
        tell    "smsw"

        /* What a selector would give. */
        movl    $CODE, %ecx
        xorl    %eax, %eax
        lar     %ecx, %eax
        tell    "lar"
        movl    $CODE, %ecx
        xorl    %eax, %eax
        lsl     %ecx, %eax
        tell    "lsl"
        movl    $CODE, %ecx
        verr    %cx
        zero_flag
        tell    "verr"
        movl    $DATA, %ecx
        verw    %cx
        zero_flag
        tell    "verw"

        /* The ring. */
        movl    %cs, %eax
        tell    "mov from cs"
        movl    %ss, %eax
        tell    "mov from ss"
        pushl   %cs
        popl    %eax
        tell    "push cs"
        pushl   %ss
        popl    %eax
        tell    "push ss"
        lcall   $CODE, $far
        tell    "call far"
        lcall   $GATE, $0
        tell    "call gate"
        int3
        tell    "int"

        xorl    %eax, %eax
        movw    $0xf4, %dx                      /* isa-debug-exit */
        outl    %eax, %dx
3:      cli
        hlt
        jmp     3b

far:
through_gate:
        movl    4(%esp), %eax                   /* the caller's CS */
        lret

breakpoint:
        movl    4(%esp), %eax
        iret

/* The name follows the call. */
report: popl    %esi
        movl    %eax, %ebx
        movw    $0x3f8, %dx
1:      lodsb
        testb   %al, %al
        jz      2f
        outb    %al, %dx
        jmp     1b
2:      movb    $':', %al
        outb    %al, %dx
        movb    $' ', %al
        outb    %al, %dx
        movl    $8, %ecx
3:      roll    $4, %ebx
        movl    %ebx, %eax
        andl    $15, %eax
        movb    digits(%eax), %al
        outb    %al, %dx
        loop    3b
        movb    $'\n', %al
        outb    %al, %dx
        jmp     *%esi

        .data
digits: .ascii  "0123456789abcdef"
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff
        .quad   0x00cf93000000ffff
        .quad   0x0000820000000007
        .quad   0x0000890000000067
        .quad   0x00008c0000080000              /* a call gate to CODE */
gdt_end:
idt:    .quad   0, 0, 0
        .quad   0x00008e0000080000              /* INT3 */
idt_end:
local:  .quad   0
gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   gdt
idt_pointer:
        .word   idt_end - idt - 1
        .long   idt
scratch:
        .space  8

        .bss
        .balign 16
task:   .space  0x68
        .space  4096
stack_top:
