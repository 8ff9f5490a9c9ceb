/*
 * Reading order 8. Exceptions, interrupts and system calls.
 *
 * Exceptions and interrupts come through interrupt gates, with IF cleared; the system call through a
 * trap gate, with IF as it was in ring 3: set.
 */
#include "cpu.h"
#include "kernel.h"

/* Intel SDM 3A, 6.11 */
#define GATE_INTERRUPT 0x8e00
#define GATE_TRAP 0x8f00
#define RING3 ((uint64_t)0x6000 << 32) /* INT may be used in ring 3 */

#define VECTOR_BREAKPOINT 3
#define VECTOR_OVERFLOW 4
#define VECTOR_NO_FPU 7
#define VECTOR_PAGE_FAULT 14

#define FAULT_PRESENT 1 /* error code of #PF: a matter of rights; else the page is absent */
#define FAULT_WRITE 2

static uint64_t idt[SYSCALL_VECTOR + 1] __attribute__((section(".descriptors"), aligned(8)));

static const char *const exceptions[] = {
    "divide error", "debug trap", "NMI", "breakpoint", "overflow", "bound range exceeded",
    "invalid opcode", "no FPU", "double fault", "coprocessor overrun", "invalid TSS",
    "segment not present", "stack fault", "general protection", "page fault", "reserved",
    "FPU error", "alignment check",
};

static void set_gate(int vector, const char *stub, uint32_t type)
{
    uint32_t address = (uint32_t)stub;

    idt[vector] = (uint64_t)((address & 0xffff0000) | type) << 32 | KERNEL_CODE << 16 | (address & 0xffff);
}

void traps_init(void)
{
    for (int i = 0; i < IRQ_BASE + IRQ_COUNT; i++)
        set_gate(i, vector_stubs + i * VECTOR_STUB_SIZE, GATE_INTERRUPT);
    idt[VECTOR_BREAKPOINT] |= RING3; /* INT3 and INTO are for everybody */
    idt[VECTOR_OVERFLOW] |= RING3;
    set_gate(SYSCALL_VECTOR, syscall_stub, GATE_TRAP);
    idt[SYSCALL_VECTOR] |= RING3;
    lidt(idt, sizeof idt);
}

static const char *exception_name(uint32_t vector)
{
    return vector < NELEMENTS(exceptions) ? exceptions[vector] : "reserved";
}

/* A program did what it must not: say so, and have it exit. */
static void fault(const struct trap_frame *f)
{
    console_report("pid %d (%s) killed: %s, error %x, eip %p", current->pid, current->name,
            exception_name(f->vector), f->error, (void *)f->eip);
    current->killed = STATUS_FAULT | f->vector;
}

/* Demand-zero and copy-on-write faults end well. */
static void page_fault(const struct trap_frame *f)
{
    uint32_t address = read_cr2();

    if (space_page(&current->space, address, f->error & FAULT_WRITE))
        return;
    console_report("pid %d (%s) killed: %s %p (%s), eip %p", current->pid, current->name,
            f->eip == address ? "jump to" : f->error & FAULT_WRITE ? "write to" : "read from",
            (void *)address,
            f->error & FAULT_PRESENT ? "protected" : "nothing there", (void *)f->eip);
    current->killed = STATUS_FAULT | f->vector;
}

uint32_t interrupt_counts[IRQ_COUNT];

static void interrupt(int irq)
{
    if (!pic_acknowledge(irq))
        return;
    interrupt_counts[irq]++;
    if (irq == 0)
        timer_interrupt();
    else if (irq == 4)
        uart_interrupt();
    else if (irq == 14)
        disk_interrupt();
}

void trap(struct trap_frame *f)
{
    bool from_user = (f->cs & 3) == 3;

    if (f->vector == SYSCALL_VECTOR) {
        syscall(f);
        process_leave_kernel();
        return;
    }
    interrupts_depth++;
    if (f->vector >= IRQ_BASE)
        interrupt(f->vector - IRQ_BASE);
    else if (!from_user)
        panic_frame(f, exception_name(f->vector));
    else if (f->vector == VECTOR_PAGE_FAULT)
        page_fault(f);
    else if (f->vector != VECTOR_NO_FPU || !fpu_use())
        fault(f);
    if (from_user || !process_may_sleep()) /* from the idle loop */
        process_leave_kernel();
    interrupts_depth--;
}
