/* What the experiments do. Each snippet ends with int $0x40, unless something else comes of it. */
        .text
        .macro  snippet name, code:vararg
        .globl  \name
\name:  \code
        int     $0x40
        .endm

        snippet hop
        snippet no_operation, nop
        snippet load_ds, movw %ax, %ds
        snippet load_es, movw %ax, %es
        snippet load_fs, movw %ax, %fs
        snippet load_gs, movw %ax, %gs
        snippet load_ss, movw %ax, %ss
        snippet lds_far, ldsl far_pointer, %ebx
        snippet lldt, lldt %ax
        snippet ltr, ltr %ax
        snippet jump_far, ljmpl *far_pointer
        snippet call_far, lcall *far_pointer
        snippet int_50, int $0x50
        snippet undefined, ud2
        snippet breakpoint, int3
        snippet trap_1, .byte 0xf1
        snippet touch_edi, movl (%edi), %eax
        snippet store_edi, movl %eax, (%edi)
        snippet iret_here, iretl

        .globl  pop_ds, pop_ss, return_far, return_far_8, interrupt_return, divide, overflow
pop_ds: pushl   %eax
        popl    %ds
        int     $0x40
pop_ss: pushl   %eax
        popl    %ss
        int     $0x40
return_far:                                     /* to ECX:hop, SS:ESP from EDX:EBX if it is an outer ring */
        pushl   %edx
        pushl   %ebx
        pushl   %ecx
        pushl   $hop
        lret
return_far_8:                                   /* EAX and EAX between, released on both sides */
        pushl   %edx
        pushl   %ebx
        pushl   %eax
        pushl   %eax
        pushl   %ecx
        pushl   $hop
        lret    $8
interrupt_return:                               /* likewise, with EFLAGS from EAX */
        pushl   %edx
        pushl   %ebx
        pushl   %eax
        pushl   %ecx
        pushl   $hop
        iretl
divide: xorl    %ecx, %ecx
        divl    %ecx
        int     $0x40
overflow:
        movb    $0x7f, %al
        incb    %al
        into
        int     $0x40

/* 16-bit code, copied to LOW. */
        .code16
        .globl  low_begin, low_end
low_begin:
        snippet low_hop
        snippet low_int_50, int $0x50
        snippet low_cli, cli
        snippet low_sti, sti
        snippet low_pushf, pushfw; popw %bx
        snippet low_pushfl, pushfl; popl %ebx
        snippet low_popf, pushw %ax; popfw
        snippet low_popfl, pushl %eax; popfl
        snippet low_hlt, hlt
        snippet low_in, inb $0x61, %al
        snippet low_load_ds, movw %ax, %ds
        snippet low_undefined, ud2
        .globl  low_iret, low_iretl
low_iret:                                       /* EFLAGS from EAX, CS from CX */
        pushw   %ax
        pushw   %cx
        pushw   $low_hop - low_begin
        iretw
low_iretl:
        pushl   %eax
        pushl   %ecx
        pushl   $low_hop - low_begin
        iretl
low_end:
        .code32
