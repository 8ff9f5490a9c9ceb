/* A multiboot kernel that sends what it was given out of COM1, raw: EAX, EBX, and the memory from
 * LOW to LOW_END and from its own first byte for HIGH_SIZE bytes. Then it leaves through
 * isa-debug-exit.
 *
 * With FLAT defined, its header has load addresses and it becomes a flat image (Multiboot 3.1.3),
 * with HEADER_GAP bytes before the header and BSS_SIZE bytes after the data, of which bss_end tells.
 */
        .set    COM1, 0x3f8
        .set    LOW, 0x9000
        .set    LOW_END, 0xb000
        .set    HIGH_SIZE, 0x10000

        .text
        .globl  _start
image:
#ifdef FLAT
        .fill   HEADER_GAP, 1, 0xcc
        .balign 4
header: .long   0x1badb002, 0x10003, -(0x1badb002 + 0x10003)
        .long   header, image, LOAD_END, BSS_END, _start
#else
        .balign 4
        .long   0x1badb002, 0x3, -(0x1badb002 + 0x3)
#endif

_start:
        movl    $stack_top, %esp
        movl    %eax, registers
        movl    %ebx, registers + 4
        movl    $registers, %esi
        movl    $8, %ecx
        call    send
        movl    $LOW, %esi
        movl    $(LOW_END - LOW), %ecx
        call    send
        movl    $image, %esi
        movl    $HIGH_SIZE, %ecx
        call    send
        movl    $0xf4, %edx
        movb    $0, %al
        outb    %al, %dx
1:      jmp     1b

/* ECX bytes from ESI on. */
send:   movl    $(COM1 + 5), %edx
1:      inb     %dx, %al
        testb   $0x20, %al
        jz      1b
        movl    $COM1, %edx
        lodsb
        outb    %al, %dx
        decl    %ecx
        jnz     send
        ret

registers:
        .long   0, 0
        .skip   16
stack_top:
image_end:
