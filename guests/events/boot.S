/* From the Multiboot loader to main, into an experiment and out of it, and the handlers of all vectors. */
        .set    MAGIC, 0x1badb002
        .set    FLAGS, 0x3

        .section .multiboot, "a"
        .balign 4
        .long   MAGIC, FLAGS, -(MAGIC + FLAGS)

        .text
        .globl  start
start:  cli
        movl    $stack_top, %esp
        call    main
        movw    $0xf4, %dx                      /* isa-debug-exit */
        xorl    %eax, %eax
        outl    %eax, %dx
1:      cli
        hlt
        jmp     1b

/* void load_tables(void) */
        .globl  load_tables
load_tables:
        lgdt    gdtr
        lidt    idtr
        ret

/* void reload(void): all segment registers from a GDT that is good again, TR, no LDT. */
        .globl  reload
reload: lgdt    gdtr
        lidt    idtr
        ljmp    $0x08, $1f
1:      movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        xorl    %eax, %eax
        movw    %ax, %fs
        movw    %ax, %gs
        lldt    %ax
        movw    $0x28, %ax
        ltr     %ax
        clts
        ret

/* void begin(const struct start *): returns when an event has been recorded. */
        .globl  begin
begin:  movl    4(%esp), %eax
        pushal
        movl    %esp, harness
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

        .macro  handler vector
        .balign 16
        pushl   $\vector
        jmp     event
        .endm

        .balign 16
        .globl  stubs
stubs:  .set    vector, 0
        .rept   256
        handler vector
        .set    vector, vector + 1
        .endr

event:  cld
        pushal
        pushl   %ds
        pushl   %es
        pushl   %fs
        pushl   %gs
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movl    %esp, %ecx
        movw    %ax, %ss
        movl    harness, %esp
        pushl   %ecx
        call    record
        addl    $4, %esp
        popal
        ret

        .bss
        .balign 16
        .skip   16384
stack_top:
harness:
        .skip   4
