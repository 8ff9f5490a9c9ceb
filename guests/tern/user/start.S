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
    pushl %eax
    call exit
