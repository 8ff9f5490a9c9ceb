/*
 * Reading order 17. switch_stack(uint32_t *save_esp, uint32_t esp): leave one kernel stack, go on on
 * another where its owner left it. A new process's first stack is made to this pattern by process.c.
 */
    .text
    .globl switch_stack
switch_stack:
    movl 4(%esp), %eax
    movl 8(%esp), %edx
    pushl %ebp
    pushl %ebx
    pushl %esi
    pushl %edi
    pushl %fs
    pushl %gs
    movl %esp, (%eax)
    movl %edx, %esp
    popl %gs
    popl %fs
    popl %edi
    popl %esi
    popl %ebx
    popl %ebp
    ret
