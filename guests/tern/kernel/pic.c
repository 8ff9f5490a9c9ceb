/*
 * Reading order 9. The pair of 8259A interrupt controllers (Intel 8259A data sheet).
 */
#include "cpu.h"
#include "kernel.h"

#define MASTER 0x20
#define SLAVE 0xa0
#define DATA 1 /* offset of the mask register */

#define ICW1_INIT 0x11  /* edge-triggered, cascaded, ICW4 follows */
#define ICW4_8086 0x01
#define OCW2_EOI 0x20
#define OCW3_READ_ISR 0x0b
#define CASCADE 2 /* the slave is on this input of the master */

static uint16_t mask = 0xffff & ~(1 << CASCADE);

void pic_init(void)
{
    out8(MASTER, ICW1_INIT);
    out8(MASTER + DATA, IRQ_BASE);
    out8(MASTER + DATA, 1 << CASCADE);
    out8(MASTER + DATA, ICW4_8086);
    out8(SLAVE, ICW1_INIT);
    out8(SLAVE + DATA, IRQ_BASE + 8);
    out8(SLAVE + DATA, CASCADE);
    out8(SLAVE + DATA, ICW4_8086);
    out8(MASTER + DATA, mask);
    out8(SLAVE + DATA, mask >> 8);
}

void pic_enable(int irq)
{
    mask &= ~(1 << irq);
    if (irq < 8)
        out8(MASTER + DATA, mask);
    else
        out8(SLAVE + DATA, mask >> 8);
}

/*
 * End of interrupt. It may be sent before the handler runs, because IF stays clear until then. A
 * request that went away in time is reported as input 7 without being in service: such a spurious
 * interrupt gets no EOI, and false is returned.
 */
bool pic_acknowledge(int irq)
{
    uint16_t port = irq < 8 ? MASTER : SLAVE;

    if (irq % 8 == 7) {
        out8(port, OCW3_READ_ISR);
        if (!(in8(port) & 0x80)) {
            if (port == SLAVE)
                out8(MASTER, OCW2_EOI); /* the cascade was in service all the same */
            return false;
        }
    }
    if (port == SLAVE)
        out8(SLAVE, OCW2_EOI);
    out8(MASTER, OCW2_EOI);
    return true;
}
