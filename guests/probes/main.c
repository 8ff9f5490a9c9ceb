/* The frame around the probes: output, interrupts, and the order of the parts. */
#include "probes.h"

#define COM1 0x3f8

static char collected[1 << 17];
static uint32_t length;
static bool first;

volatile uint32_t taken[16];
volatile uint8_t order[32];
volatile uint32_t orders;
volatile bool answer;

static void put(char c)
{
    if (length < sizeof collected)
        collected[length++] = c;
}

static void digits(uint32_t value, int number)
{
    put(' ');
    while (number-- > 0)
        put("0123456789abcdef"[value >> 4 * number & 15]);
}

void text(const char *words)
{
    while (*words)
        put(*words++);
}

void begin(const char *name)
{
    text(name);
    put(':');
}

void b(uint8_t value) { digits(value, 2); }
void w(uint16_t value) { digits(value, 4); }
void l(uint32_t value) { digits(value, 8); }
void end(void) { put('\n'); }

/* COM1 at 115200 8N1, without FIFO and interrupts, whatever it was before. */
static void send(void)
{
    static const uint8_t settings[][2] = { { 3, 0x80 }, { 0, 1 }, { 1, 0 }, { 3, 3 }, { 1, 0 }, { 2, 0 }, { 4, 0x0b } };

    for (uint32_t i = 0; i < sizeof settings / 2; i++)
        out8(COM1 + settings[i][0], settings[i][1]);
    for (uint32_t i = 0; i < length; i++) {
        while (!(in8(COM1 + 5) & 0x20))
            ;
        out8(COM1, collected[i]);
    }
    length = 0;
}

void part(const char *name)
{
    if (!first)
        send();
    first = false;
    text("== ");
    text(name);
    put('\n');
}

void forget_interrupts(void)
{
    for (int i = 0; i < 16; i++)
        taken[i] = 0;
    orders = 0;
}

void interrupt(int line)
{
    taken[line]++;
    if (orders < sizeof order)
        order[orders++] = line;
    if (line == 8) { /* the clock keeps its line up until register C is read */
        out8(0x70, 0x0c);
        in8(0x71);
    }
    if (!answer)
        return;
    if (line >= 8)
        out8(0xa0, 0x20);
    out8(0x20, 0x20);
}

void window(void)
{
    for (int i = 0; i < 32; i++)
        asm volatile("sti; nop; nop; cli" : : : "memory");
}

bool wait_for(int line, uint32_t number)
{
    for (int i = 0; i < 10000 && taken[line] < number; i++)
        asm volatile("sti; hlt; cli" : : : "memory");
    return taken[line] >= number;
}

bool spin_for(int line, uint32_t number)
{
    asm volatile("sti");
    for (volatile uint32_t i = 0; i < 50000000 && taken[line] < number; i++)
        ;
    asm volatile("cli");
    return taken[line] >= number;
}

void pics(uint16_t enabled)
{
    static const uint8_t words[][2] = { { 0x20, 0x11 }, { 0x21, 0x20 }, { 0x21, 4 }, { 0x21, 1 },
                                        { 0xa0, 0x11 }, { 0xa1, 0x28 }, { 0xa1, 2 }, { 0xa1, 1 } };

    for (uint32_t i = 0; i < sizeof words / 2; i++)
        out8(words[i][0], words[i][1]);
    out8(0x21, ~enabled & (enabled >> 8 ? ~4 : ~0));
    out8(0xa1, ~(enabled >> 8));
    answer = true;
    forget_interrupts();
}

void main(void)
{
    first = true;
    part("firmware");
    begin("8259 masks");
    b(in8(0x21));
    b(in8(0xa1));
    end();
    begin("interrupt enable, identification, line, modem");
    for (int i = 1; i < 8; i++)
        b(in8(COM1 + i));
    end();
    /* A timer that does not tick, so that IRQ 0 plays no part where it is not asked for. */
    out8(0x43, 0x32);
    out8(0x40, 0xff);
    out8(0x40, 0xff);
    part("8259 interrupt controllers");
    probe_pic();
    part("8254 timer");
    probe_pit();
    part("16550 UART");
    probe_uart();
    part("MC146818 clock");
    probe_rtc();
    part("8042 keyboard controller");
    probe_i8042();
    part("IDE");
    probe_ide();
    part("end");
    send();
}
