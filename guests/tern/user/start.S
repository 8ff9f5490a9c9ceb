/* The first instructions of every program: main(argc, argv), then exit(its result). */
    .section .text.start, "ax"
    .globl start
start:
    xorl %ebp, %ebp
    movl (%esp), %eax
    leal 4(%esp), %edx
    pushl %edx
    pushl %eax
    call main
    movl %eax, %ebx
    movl $1, %eax /* SYS_exit */
    int $0x80
