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
#define FAULT(name, vector, ...)                                       \
    static int try_##name(void)                                        \
    {                                                                  \
        __VA_ARGS__;                                                   \
        return 0;                                                      \
    }                                                                  \
    CHECK(name)                                                        \
    {                                                                  \
        HOLDS(status_of_child(try_##name) == (STATUS_FAULT | vector)); \
        return NULL;                                                   \
    }

static const int constant = 1;
static volatile uint32_t zero;

static int recurse(int depth)
{
    volatile char room[1024];

    room[0] = depth;
    return depth < 1000000 ? recurse(depth + 1) + room[0] : 0;
}

FAULT(fault_null_read, PAGE, *(volatile int *)0)
FAULT(fault_null_write, PAGE, *(volatile int *)(zero + 4) = 1)
FAULT(fault_kernel_read, PAGE, *(volatile int *)0xC0100000)
FAULT(fault_kernel_write, PAGE, *(volatile int *)0xC0100000 = 1)
FAULT(fault_last_byte, PAGE, *(volatile char *)0xFFFFFFFF)
FAULT(fault_code_write, PAGE, *(volatile int *)USER_BASE = 1)
FAULT(fault_constant_write, PAGE, *(volatile int *)&constant = 2)
FAULT(fault_jump_nowhere, PAGE, ((void (*)(void))0x30000000)())
FAULT(fault_jump_kernel, PAGE, ((void (*)(void))0xC0100000)())
FAULT(fault_stack_overflow, PAGE, recurse(0))
FAULT(fault_lost_stack, PAGE, __asm__ volatile("xorl %%esp, %%esp\n\tpushl %%eax" : : : "memory"))
FAULT(fault_divide, DIVIDE, __asm__ volatile("divl %0" : : "r"(0), "a"(1), "d"(0)))
FAULT(fault_divide_overflow, DIVIDE, __asm__ volatile("idivl %0" : : "r"(-1), "a"(0x80000000), "d"(-1)))
FAULT(fault_breakpoint, BREAKPOINT, __asm__ volatile("int3"))
FAULT(fault_overflow, OVERFLOW, __asm__ volatile("addl %0, %0\n\tinto" : : "r"(0x7fffffff)))
FAULT(fault_bound, BOUND, static const int limits[] = {1, 2};
      __asm__ volatile(".byte 0x62, 0x01" : : "a"(3), "c"(limits))) /* BOUND EAX, [ECX] */
FAULT(fault_opcode, OPCODE, __asm__ volatile(".byte 0x0f, 0x0b"))
FAULT(fault_halt, PROTECTION, __asm__ volatile("hlt"))
FAULT(fault_interrupts_off, PROTECTION, __asm__ volatile("cli"))
FAULT(fault_interrupts_on, PROTECTION, __asm__ volatile("sti"))
FAULT(fault_page_directory, PROTECTION, __asm__ volatile("movl %%eax, %%cr3" : : "a"(0)))
FAULT(fault_port_out, PROTECTION, __asm__ volatile("outb %%al, $0xf4" : : "a"(99)))
FAULT(fault_port_in, PROTECTION, uint8_t got; __asm__ volatile("inb $0x60, %0" : "=a"(got)))
FAULT(fault_kernel_segment, PROTECTION, __asm__ volatile("movl %0, %%ds" : : "r"(0x10)))
FAULT(fault_interrupt_gate, PROTECTION, __asm__ volatile("int $0x20"))
FAULT(fault_task_switched, PROTECTION, __asm__ volatile("clts"))

/* 1 / 0, with that error unmasked. */
FAULT(fault_fpu_error, FPU_ERROR, static const uint16_t control = 0x037b;
      __asm__ volatile("fninit\n\tfldcw %0\n\tfld1\n\tfldz\n\tfdivrp\n\tfwait" : : "m"(control)))
