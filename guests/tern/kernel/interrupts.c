/*
 * Reading order 6. Nested critical sections.
 *
 * EFLAGS.IF says whether interrupts are on, but reading it takes PUSHF, which in a de-privileged
 * kernel shows the real flag instead of ours, without a trap. So we count.
 *
 * Invariant, whenever C code of the kernel runs: IF is set exactly if interrupts_depth is 0. The
 * processor clears IF on its way through an interrupt gate, and traps.c counts that; IRET restores
 * it. The count belongs to the running process, schedule() switches it.
 */
#include "cpu.h"
#include "kernel.h"

int interrupts_depth = 1;

void interrupts_off(void)
{
    if (interrupts_depth == 0)
        cli();
    interrupts_depth++;
}

void interrupts_on(void)
{
    assert(interrupts_depth > 0);
    if (--interrupts_depth == 0)
        sti();
}
