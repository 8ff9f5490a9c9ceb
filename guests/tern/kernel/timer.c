/* Reading order 10. The 8254's counter 0 interrupts a hundred times a second. */
#include "cpu.h"
#include "kernel.h"

#define COUNTER0 0x40
#define CONTROL 0x43
#define MODE 0x34 /* counter 0, low byte then high byte, mode 2: rate generator */
#define FREQUENCY 1193182
#define DIVISOR ((FREQUENCY * TICK_MS + 500) / 1000)

volatile uint32_t ticks;

void timer_init(void)
{
    out8(CONTROL, MODE);
    out8(COUNTER0, DIVISOR & 0xff);
    out8(COUNTER0, DIVISOR >> 8);
    pic_enable(0);
}

void timer_interrupt(void)
{
    ticks++;
    process_tick();
}
