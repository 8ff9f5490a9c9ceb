/* From the Multiboot loader to main, into a case and out of it, and the handlers of all vectors. */
#include "kit.inc"
        multiboot_header
/* At a place that the module knows: gates lead here. */
        .globl  stubs
        .balign 4096
stubs:  handlers 80
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
        leave_machine

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
1:      load_data_segments 0x10
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
        push_iret_frame
        lgdt    case_gdt
        load_registers_and_return

event:  push_registers
        movl    %esp, %ecx
        movl    %ss, %ebx
        load_data_segments 0x10
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
