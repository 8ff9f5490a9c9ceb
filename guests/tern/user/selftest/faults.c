/* Checks of exceptions: each ends its process, with its vector, and nothing else. */
#include "selftest.h"

#define DIVIDE 0
#define BREAKPOINT 3
#define OVERFLOW 4
#define BOUND 5
#define OPCODE 6
#define PROTECTION 13
#define PAGE 14
#define FPU_ERROR 16

/* A child that tries to do something ends by a fault with the given vector. */
#define FAULT(function, vector, ...)                                       \
    static int try_##function(void)                                        \
    {                                                                      \
        __VA_ARGS__;                                                       \
        return 0;                                                          \
    }                                                                      \
    static const char *function(void)                                      \
    {                                                                      \
        HOLDS(status_of_child(try_##function) == (STATUS_FAULT | vector)); \
        return NULL;                                                       \
    }

static const int constant = 1;
static volatile uint32_t zero;

static int recurse(int depth)
{
    volatile char room[1024];

    room[0] = depth;
    return depth < 1000000 ? recurse(depth + 1) + room[0] : 0;
}

FAULT(null_read, PAGE, *(volatile int *)0)
FAULT(null_write, PAGE, *(volatile int *)(zero + 4) = 1)
FAULT(kernel_read, PAGE, *(volatile int *)0xC0100000)
FAULT(kernel_write, PAGE, *(volatile int *)0xC0100000 = 1)
FAULT(last_byte, PAGE, *(volatile char *)0xFFFFFFFF)
FAULT(code_write, PAGE, *(volatile int *)USER_BASE = 1)
FAULT(constant_write, PAGE, *(volatile int *)&constant = 2)
FAULT(jump_nowhere, PAGE, ((void (*)(void))0x30000000)())
FAULT(jump_kernel, PAGE, ((void (*)(void))0xC0100000)())
FAULT(stack_overflow, PAGE, recurse(0))
FAULT(lost_stack, PAGE, __asm__ volatile("xorl %%esp, %%esp\n\tpushl %%eax" : : : "memory"))
FAULT(divide, DIVIDE, __asm__ volatile("divl %0" : : "r"(0), "a"(1), "d"(0)))
FAULT(divide_overflow, DIVIDE, __asm__ volatile("idivl %0" : : "r"(-1), "a"(0x80000000), "d"(-1)))
FAULT(breakpoint, BREAKPOINT, __asm__ volatile("int3"))
FAULT(overflow, OVERFLOW, __asm__ volatile("addl %0, %0\n\tinto" : : "r"(0x7fffffff)))
FAULT(bound, BOUND, static const int limits[] = {1, 2}; __asm__ volatile("boundl %0, %1" : : "r"(3), "m"(limits)))
FAULT(opcode, OPCODE, __asm__ volatile(".byte 0x0f, 0x0b"))
FAULT(halt, PROTECTION, __asm__ volatile("hlt"))
FAULT(interrupts_off, PROTECTION, __asm__ volatile("cli"))
FAULT(interrupts_on, PROTECTION, __asm__ volatile("sti"))
FAULT(page_directory, PROTECTION, __asm__ volatile("movl %%eax, %%cr3" : : "a"(0)))
FAULT(port_out, PROTECTION, __asm__ volatile("outb %%al, $0xf4" : : "a"(99)))
FAULT(port_in, PROTECTION, uint8_t got; __asm__ volatile("inb $0x60, %0" : "=a"(got)))
FAULT(kernel_segment, PROTECTION, __asm__ volatile("movl %0, %%ds" : : "r"(0x10)))
FAULT(interrupt_gate, PROTECTION, __asm__ volatile("int $0x20"))
FAULT(task_switched, PROTECTION, __asm__ volatile("clts"))

/* 1 / 0, with that error unmasked. */
FAULT(fpu_error, FPU_ERROR, static const uint16_t control = 0x037b;
      __asm__ volatile("fninit\n\tfldcw %0\n\tfld1\n\tfldz\n\tfdivrp\n\tfwait" : : "m"(control)))

const struct check fault_checks[] = {
    {"fault-null-read", null_read},
    {"fault-null-write", null_write},
    {"fault-kernel-read", kernel_read},
    {"fault-kernel-write", kernel_write},
    {"fault-last-byte", last_byte},
    {"fault-code-write", code_write},
    {"fault-constant-write", constant_write},
    {"fault-jump-nowhere", jump_nowhere},
    {"fault-jump-kernel", jump_kernel},
    {"fault-stack-overflow", stack_overflow},
    {"fault-lost-stack", lost_stack},
    {"fault-divide", divide},
    {"fault-divide-overflow", divide_overflow},
    {"fault-breakpoint", breakpoint},
    {"fault-overflow", overflow},
    {"fault-bound", bound},
    {"fault-opcode", opcode},
    {"fault-halt", halt},
    {"fault-interrupts-off", interrupts_off},
    {"fault-interrupts-on", interrupts_on},
    {"fault-page-directory", page_directory},
    {"fault-port-out", port_out},
    {"fault-port-in", port_in},
    {"fault-kernel-segment", kernel_segment},
    {"fault-interrupt-gate", interrupt_gate},
    {"fault-task-switched", task_switched},
    {"fault-fpu-error", fpu_error},
    {NULL, NULL},
};
