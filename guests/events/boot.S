/* From the Multiboot loader to main, into an experiment and out of it, and the handlers of all vectors. */
#include "kit.inc"
        multiboot_header
        .globl  start
start:  cli
        movl    $stack_top, %esp
        call    main
        leave_machine

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
1:      load_data_segments 0x10
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
        push_iret_frame
        load_registers_and_return

        .balign 16
        .globl  stubs
stubs:  handlers 256

event:  push_registers
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
