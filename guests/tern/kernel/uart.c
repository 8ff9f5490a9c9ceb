/*
 * Reading order 11. COM1, a 16550 (National PC16550D data sheet), driven by interrupts both ways.
 *
 * Output goes through a ring: processes append at its head, uart_fill() takes from its tail,
 * sixteen bytes whenever the transmitter has become empty. Input is handed to the console byte by
 * byte; when it has no room, the receiver's interrupt is switched off and the bytes wait in the
 * FIFO and, behind it, at the sender. So nothing is ever dropped.
 */
#include "cpu.h"
#include "kernel.h"

#define COM1 0x3f8
#define IRQ 4

enum { RBR = COM1, THR = COM1, IER, IIR, LCR, MCR, LSR, MSR, DLL = COM1, DLM = IER, FCR = IIR };

#define IER_RECEIVED 0x01
#define IER_EMPTY 0x02
#define IER_LINE 0x04
#define IIR_NONE 0x01
#define IIR_KIND 0x0e
#define KIND_MODEM 0x00
#define KIND_EMPTY 0x02
#define KIND_RECEIVED 0x04
#define KIND_LINE 0x06
#define KIND_TIMEOUT 0x0c
#define FCR_ENABLE_AND_CLEAR 0x87 /* and interrupt on eight bytes, or on fewer that have to wait */
#define LCR_8N1 0x03
#define LCR_DIVISOR 0x80
#define MCR_ON 0x0b /* DTR, RTS and OUT2, which gates the interrupt line */
#define LSR_DATA 0x01
#define LSR_EMPTY 0x20
#define LSR_IDLE 0x40
#define FIFO_SIZE 16

#define TYPE_AHEAD_POLLS 20000 /* some milliseconds */

#define RING_SIZE 4096

static char ring[RING_SIZE];
static volatile uint32_t head, tail; /* they count bytes: head - tail are waiting */
static volatile bool transmitting;   /* an interrupt will come that looks at the ring again */
static volatile uint8_t enabled;     /* what IER holds */
static int fifo_size = 1;

static void enable(uint8_t ier)
{
    enabled = ier;
    out8(IER, ier);
}

/*
 * Switching the FIFO on clears what has been received. So, if somebody types ahead, take that first,
 * until the line is silent. If that is more than the console holds, do without a FIFO.
 */
static void switch_fifo_on(void)
{
    int silence = in8(LSR) & LSR_DATA ? TYPE_AHEAD_POLLS : 0;

    for (int i = 0; i < silence; i++) {
        if (!(in8(LSR) & LSR_DATA))
            continue;
        if (!console_has_room())
            return;
        console_input(in8(RBR));
        i = 0;
    }
    out8(FCR, FCR_ENABLE_AND_CLEAR);
    fifo_size = FIFO_SIZE;
}

void uart_init(void)
{
    out8(LCR, LCR_DIVISOR);
    out8(DLL, 1); /* 115200 baud */
    out8(DLM, 0);
    out8(LCR, LCR_8N1);
    switch_fifo_on();
    out8(MCR, MCR_ON);
    enable(IER_RECEIVED | IER_EMPTY | IER_LINE);
    pic_enable(IRQ);
}

/* Must hold: interrupts off, the transmitter is empty. */
static void uart_fill(void)
{
    transmitting = head != tail;
    for (int i = 0; i < fifo_size && head != tail; i++)
        out8(THR, ring[tail++ % RING_SIZE]);
}

/* Must hold: interrupts off. Busy-waits until a FIFO's worth is on its way. */
static void uart_push(void)
{
    while (!(in8(LSR) & LSR_EMPTY))
        ;
    uart_fill();
}

uint32_t uart_room(void)
{
    return RING_SIZE - (head - tail);
}

/* Sleeps until there is room, if the caller is a process; else makes room. */
void uart_wait_room(uint32_t bytes)
{
    if (uart_room() >= bytes)
        return; /* the interrupt can only make it more */
    interrupts_off();
    while (uart_room() < bytes) {
        if (interrupts_depth == 1 && process_may_sleep())
            sleep_on(ring);
        else
            uart_push();
    }
    interrupts_on();
}

/* Must hold: there is room. */
void uart_put(char c)
{
    ring[head % RING_SIZE] = c;
    head++;
}

/* See to it that what was put is sent. If a transmission is under way, its end does. */
void uart_start(void)
{
    if (transmitting)
        return;
    interrupts_off();
    if (!transmitting)
        uart_push();
    interrupts_on();
}

/* Send everything, now. */
void uart_flush(void)
{
    interrupts_off();
    while (head != tail)
        uart_push();
    while (!(in8(LSR) & LSR_IDLE))
        ;
    interrupts_on();
}

static void uart_receive(void)
{
    while (in8(LSR) & LSR_DATA) {
        if (!console_has_room()) {
            enable(enabled & ~IER_RECEIVED);
            return;
        }
        console_input(in8(RBR));
    }
}

/* The console has room again. */
void uart_resume_input(void)
{
    if (enabled & IER_RECEIVED)
        return;
    interrupts_off();
    enable(enabled | IER_RECEIVED);
    interrupts_on();
}

/* The 8259 sees only edges, so all causes must be gone before we return. */
void uart_interrupt(void)
{
    uint8_t cause;

    while (!((cause = in8(IIR)) & IIR_NONE)) {
        switch (cause & IIR_KIND) {
        case KIND_EMPTY:
            uart_fill();
            wakeup(ring);
            break;
        case KIND_RECEIVED:
        case KIND_TIMEOUT:
            uart_receive();
            break;
        case KIND_LINE:
            in8(LSR);
            break;
        case KIND_MODEM:
            in8(MSR);
            break;
        }
    }
}
