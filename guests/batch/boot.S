/* From the Multiboot loader to main, into a case and out of it, and the handlers of all vectors. */
        .set    MAGIC, 0x1badb002
        .set    FLAGS, 0x3

        .section .multiboot, "a"
        .balign 4
        .long   MAGIC, FLAGS, -(MAGIC + FLAGS)

        .text
/* At a place that the module knows: gates lead here. */
        .macro  handler vector
        .balign 16
        pushl   $\vector
        jmp     event
        .endm

        .globl  stubs
        .balign 4096
stubs:  .set    vector, 0
        .rept   80
        handler vector
        .set    vector, vector + 1
        .endr
/* #DF comes by a task gate, so that no broken stack is in its way; this is where its task begins. */
        .balign 16
double_fault:
        pushl   $2                              /* no NT: IRET would go back to the task */
        popfl
        call    record_double_fault
        movl    harness, %esp
        popal
        ret

        .globl  start
start:  cli
        movl    $stack_top, %esp
        pushl   %ebx
        call    main
        movw    $0xf4, %dx                      /* isa-debug-exit */
        xorl    %eax, %eax
        outl    %eax, %dx
1:      cli
        hlt
        jmp     1b

/* void begin(const struct test_case *): returns when an event has been recorded. */
        .globl  begin
begin:  pushal
        movl    36(%esp), %ebx
        movl    %esp, harness
        lgdt    good_gdt
        pushl   $2                              /* all of EFLAGS: POPF is not to be trusted in ring 1 */
        pushl   $0x08
        pushl   $1f
        iretl
1:      movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        xorl    %eax, %eax                      /* nothing is left of the case before */
        movw    %ax, %fs
        movw    %ax, %gs
        movw    $0x28, %ax
        ltr     %ax
        movw    96(%ebx), %ax
        lldt    %ax
        movl    80(%ebx), %eax
        movl    %eax, %cr0
        movl    84(%ebx), %eax
        movl    %eax, %cr4
        movw    88(%ebx), %ax
        movw    %ax, case_gdt
        movw    92(%ebx), %ax
        movw    %ax, case_idt
        lidt    case_idt
        movl    %ebx, %eax
        testl   $0x20000, 52(%eax)
        jnz     1f
        testl   $3, 48(%eax)
        jnz     1f
        movw    60(%eax), %ss                   /* ring 0: on its own stack */
        movl    56(%eax), %esp
        jmp     2f
1:      pushl   76(%eax)                        /* for virtual-8086 mode: GS, FS, DS, ES */
        pushl   72(%eax)
        pushl   68(%eax)
        pushl   64(%eax)
        pushl   60(%eax)                        /* SS, ESP */
        pushl   56(%eax)
2:      pushl   52(%eax)                        /* EFLAGS, CS, EIP */
        pushl   48(%eax)
        pushl   44(%eax)
        lgdt    case_gdt
        movw    0(%eax), %gs
        movw    4(%eax), %fs
        movw    8(%eax), %es
        movl    16(%eax), %edi
        movl    20(%eax), %esi
        movl    24(%eax), %ebp
        movl    28(%eax), %ebx
        movl    32(%eax), %edx
        movl    36(%eax), %ecx
        pushl   40(%eax)
        movw    12(%eax), %ds
        popl    %eax
        iretl

event:  cld
        pushal
        pushl   %ds
        pushl   %es
        pushl   %fs
        pushl   %gs
        movl    %esp, %ecx
        movl    %ss, %ebx
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $record_stack_top, %esp         /* the case may have ended on the harness's own */
        andl    $0xfffc, %ebx                   /* whatever ring SS shows */
        cmpl    $0x50, %ebx
        jne     1f
        movzwl  %cx, %ecx                       /* a 16-bit stack */
1:      pushl   %ecx
        call    record
        movl    harness, %esp
        popal
        ret

        .data
        .balign 4
        .globl  good_gdt, case_gdt, case_idt
        .word   0
good_gdt:
        .word   0xff
        .long   0x5f0000
        .word   0
case_gdt:
        .word   0
        .long   0x5f0000
        .word   0
case_idt:
        .word   0
        .long   0x5f1000

        .bss
        .balign 16
        .skip   8192
stack_top:
        .skip   8192
record_stack_top:
harness:
        .skip   4
