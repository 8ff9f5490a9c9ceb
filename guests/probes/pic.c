/*
 * The 8259A pair (Intel 8259A data sheet). The lines that can be moved without waiting: IRQ 4 by the
 * UART's transmitter, IRQ 1 and 12 by the keyboard controller's "write output buffer" commands.
 */
#include "probes.h"

enum { MASTER = 0x20, SLAVE = 0xa0 };

static void uart_line(bool up) { out8(0x3f9, up ? 2 : 0); }

static void keyboard_line(uint8_t command)
{
    out8(0x64, command); /* 0xd2: as if from the keyboard, 0xd3: from the mouse */
    out8(0x60, 0x5a);
}

static void keyboard_taken(void)
{
    while (in8(0x64) & 1)
        in8(0x60);
}

/* IRR, ISR and IMR of both. */
static void registers(const char *name)
{
    begin(name);
    for (int base = MASTER; base <= SLAVE; base += SLAVE - MASTER) {
        out8(base, 0x0a);
        b(in8(base));
        out8(base, 0x0b);
        b(in8(base));
        b(in8(base + 1));
    }
    end();
}

static uint8_t poll(int base)
{
    out8(base, 0x0c);
    return in8(base);
}

static void polls(const char *name, int number)
{
    begin(name);
    for (int i = 0; i < number; i++)
        b(poll(MASTER));
    end();
}

static void masks(void)
{
    begin("mask patterns");
    for (int i = 0; i < 8; i++) {
        out8(MASTER + 1, 1 << i);
        out8(SLAVE + 1, ~(1 << i));
        b(in8(MASTER + 1));
        b(in8(SLAVE + 1));
    }
    end();
}

static void initialization(void)
{
    static const uint8_t first[] = { 0x11, 0x10, 0x13, 0x12, 0x19, 0x1b, 0xff };

    for (uint32_t i = 0; i < sizeof first; i++) {
        out8(MASTER + 1, 0x55);
        begin("ICW1, then reads at every step");
        b(first[i]);
        out8(MASTER, first[i]);
        b(in8(MASTER));
        b(in8(MASTER + 1));
        out8(MASTER + 1, 0x20);
        b(in8(MASTER + 1));
        out8(MASTER + 1, 0x04);
        b(in8(MASTER + 1));
        out8(MASTER + 1, 0x01);
        b(in8(MASTER + 1));
        out8(MASTER + 1, 0xa5);
        b(in8(MASTER + 1));
        end();
    }
    begin("trigger modes");
    for (int i = 0; i < 3; i++) {
        out8(0x4d0, i == 1 ? 0xff : 0x5a * i);
        out8(0x4d1, i == 1 ? 0xff : 0xa5 * i);
        b(in8(0x4d0));
        b(in8(0x4d1));
    }
    out8(0x4d0, 0);
    out8(0x4d1, 0);
    end();
}

/* Both lines of the master are up; then what each OCW2 makes of it. */
static void endings(void)
{
    static const uint8_t commands[] = { 0x20, 0x61, 0x64, 0xa0, 0xe1, 0xe4, 0xc0, 0xc1, 0xc4, 0xc7, 0x80, 0x00, 0x40 };

    for (uint32_t i = 0; i < sizeof commands; i++) {
        pics(0x0000);
        out8(MASTER + 1, 0xed);
        keyboard_line(0xd2);
        uart_line(true);
        begin("OCW2 after a poll, then two polls, EOI, poll");
        b(commands[i]);
        b(poll(MASTER));
        out8(MASTER, commands[i]);
        b(poll(MASTER));
        b(poll(MASTER));
        out8(MASTER, 0x20);
        b(poll(MASTER));
        out8(MASTER, 0x20);
        b(poll(MASTER));
        end();
        registers("and the registers");
        uart_line(false);
        keyboard_taken();
    }
}

static void special_modes(void)
{
    pics(0x0012);
    out8(MASTER + 1, 0xed);
    keyboard_line(0xd2);
    polls("keyboard in service", 1);
    uart_line(true);
    polls("nothing lower gets through", 1);
    out8(MASTER, 0x68); /* special mask mode */
    polls("special mask: not yet", 1);
    out8(MASTER + 1, 0xef);
    polls("special mask, the keyboard masked", 1);
    out8(MASTER, 0x48);
    registers("special mask off");
    uart_line(false);
    keyboard_taken();

    /* Automatic end of interrupt, with and without rotation */
    for (int rotate = 0; rotate < 2; rotate++) {
        out8(MASTER, 0x11);
        out8(MASTER + 1, 0x20);
        out8(MASTER + 1, 0x04);
        out8(MASTER + 1, 0x03);
        out8(MASTER + 1, 0xed);
        out8(MASTER, rotate ? 0x80 : 0x00);
        keyboard_line(0xd2);
        uart_line(true);
        polls(rotate ? "automatic EOI, rotating" : "automatic EOI", 3);
        registers("and the registers");
        uart_line(false);
        keyboard_taken();
        keyboard_line(0xd2);
        uart_line(true);
        polls("again", 3);
        uart_line(false);
        keyboard_taken();
        out8(MASTER, 0x00);
    }

    pics(0x0000);
    out8(0x4d0, 0x10); /* the UART's line by level */
    out8(MASTER + 1, 0xef);
    uart_line(true);
    begin("a level requests again after each EOI");
    for (int i = 0; i < 3; i++) {
        b(poll(MASTER));
        b(poll(MASTER));
        out8(MASTER, 0x20);
    }
    uart_line(false);
    b(poll(MASTER));
    end();
    registers("the level is gone");
    out8(0x4d0, 0);
}

static void cascade(void)
{
    pics(0x0000);
    out8(MASTER + 1, 0xfb);
    out8(SLAVE + 1, 0xef);
    keyboard_line(0xd3);
    registers("the mouse's line");
    begin("poll of master, of slave, again");
    b(poll(MASTER));
    b(poll(SLAVE));
    b(poll(MASTER));
    b(poll(SLAVE));
    end();
    registers("both in service");
    out8(MASTER, 0x20);
    registers("master's EOI only");
    out8(SLAVE, 0x64);
    registers("slave's specific EOI");
    keyboard_taken();
}

static void taken_by_the_cpu(void)
{
    pics(0x1012);
    out8(MASTER, 0x47); /* nothing special */
    uart_line(true);
    keyboard_line(0xd3);
    window();
    keyboard_taken();
    keyboard_line(0xd2);
    uart_line(false);
    uart_line(true);
    window();
    begin("taken, in order");
    for (uint32_t i = 0; i < orders; i++)
        b(order[i]);
    end();
    uart_line(false);
    keyboard_taken();

    /* The line falls before anybody acknowledges: an edge that was seen stays a request. */
    pics(0x0000);
    uart_line(true);
    uart_line(false);
    registers("a line that fell again");
    out8(MASTER + 1, 0xef);
    window();
    begin("and what is taken");
    for (uint32_t i = 0; i < orders; i++)
        b(order[i]);
    end();
    forget_interrupts();
    pics(0x0010);
    answer = false;
    uart_line(true);
    window();
    uart_line(false);
    uart_line(true);
    registers("in service and waiting, no EOI");
    window();
    out8(MASTER, 0x20);
    window();
    out8(MASTER, 0x20);
    begin("taken twice");
    b(taken[4]);
    end();
    uart_line(false);
    registers("at the end");
    pics(0);
}

void probe_pic(void)
{
    out8(0x64, 0x60); /* both interrupts of the keyboard controller on, keys as they come */
    out8(0x60, 0x03);
    keyboard_taken();
    registers("as found");
    masks();
    initialization();
    pics(0);
    registers("initialized");
    polls("nothing to poll", 2);
    endings();
    special_modes();
    cascade();
    taken_by_the_cpu();
}
