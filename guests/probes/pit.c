/* The 8254 timer (Intel 8254 data sheet): control words, latches, gate and output; IRQ 0 against the clock. */
#include "probes.h"

enum { COUNTER = 0x40, CONTROL = 0x43, SPEAKER = 0x61 };

static void control(int counter, int access, int mode, int bcd)
{
    out8(CONTROL, counter << 6 | access << 4 | mode << 1 | bcd);
}

static void load(int counter, uint16_t count)
{
    out8(COUNTER + counter, count);
    out8(COUNTER + counter, count >> 8);
}

/* Read back: status of one counter. */
static uint8_t status(int counter)
{
    out8(CONTROL, 0xe0 | 2 << counter);
    return in8(COUNTER + counter);
}

static void statuses(void)
{
    for (int access = 1; access <= 3; access++)
        for (int mode = 0; mode < 8; mode++) {
            begin("counter 2, access, mode: status after control word, half a load, load");
            b(access);
            b(mode);
            out8(SPEAKER, 0);
            control(2, access, mode, mode & 1);
            b(status(2));
            out8(COUNTER + 2, 0x99);
            b(status(2));
            if (access == 3) {
                out8(COUNTER + 2, 0x99);
                b(status(2));
            }
            b(in8(SPEAKER) & 0x23);
            end();
        }
}

/* A count as great as can be, and reads so soon after that only the low byte has moved. */
static void counts(void)
{
    for (int mode = 0; mode < 6; mode++) {
        out8(SPEAKER, 1);
        control(2, 3, mode, 0);
        load(2, 0xffff);
        out8(CONTROL, 0x80);
        uint8_t low = in8(COUNTER + 2), high = in8(COUNTER + 2);
        begin("high byte of a latched count, in mode");
        b(mode);
        b(high);
        end();
        begin("~low byte");
        b(low);
        end();
        out8(SPEAKER, 0);
    }
    control(2, 3, 0, 0);
    load(2, 0x8000);
    out8(CONTROL, 0x80);
    out8(CONTROL, 0x80); /* a second latch command changes nothing */
    out8(CONTROL, 0xc0 | 2 << 2 | 0); /* status and count, both latched */
    begin("latched status, then the count's high byte");
    b(in8(COUNTER + 2));
    in8(COUNTER + 2);
    b(in8(COUNTER + 2) & 0xf0);
    end();
    control(2, 1, 0, 0);
    out8(COUNTER + 2, 0xff);
    begin("~low byte only");
    b(in8(COUNTER + 2));
    end();
    control(2, 2, 0, 0);
    out8(COUNTER + 2, 0xff);
    begin("high byte only");
    b(in8(COUNTER + 2));
    b(in8(COUNTER + 2));
    end();
    control(2, 3, 0, 1);
    load(2, 0x9999);
    out8(CONTROL, 0x80);
    in8(COUNTER + 2);
    begin("high byte, binary-coded decimal");
    b(in8(COUNTER + 2));
    end();
    begin("the control register cannot be read");
    b(in8(CONTROL));
    end();
}

static void gate(void)
{
    for (int mode = 0; mode < 6; mode++) {
        out8(SPEAKER, 0);
        control(2, 3, mode, 0);
        load(2, 0xffff);
        begin("gate off, on, off: output and what is read back, in mode");
        b(mode);
        b(in8(SPEAKER) & 0x23);
        out8(SPEAKER, 1);
        b(in8(SPEAKER) & 0x23);
        b(status(2));
        out8(SPEAKER, 2);
        b(in8(SPEAKER) & 0x23);
        out8(SPEAKER, 0xff);
        b(in8(SPEAKER) & 0x23);
        b(status(2));
        end();
    }
    out8(SPEAKER, 0);
    /* To the end of a short count, which is over long before the next look. */
    for (int mode = 0; mode < 6; mode++) {
        out8(SPEAKER, 0);
        control(2, 3, mode, 0);
        load(2, 2);
        out8(SPEAKER, 1);
        for (volatile int i = 0; i < 5000; i++)
            ;
        begin(mode == 2 || mode == 3 ? "~output after a short count, in mode" : "output after a short count, in mode");
        b(mode);
        b(in8(SPEAKER) & 0x20);
        b(status(2) & 0xc0);
        end();
    }
    out8(SPEAKER, 0);
}

/* Interrupts in a quarter of a second that the clock measures, rounded to fives. */
static void interrupts(void)
{
    static const uint8_t modes[] = { 2, 3 };

    for (uint32_t i = 0; i < sizeof modes; i++) {
        pics(0x0101);
        control(0, 3, modes[i], 0);
        load(0, 11932); /* 100 Hz */
        out8(0x70, 0x0b);
        out8(0x71, 0x42); /* the clock interrupts 1024 times a second */
        out8(0x70, 0x0c);
        in8(0x71);
        bool good = spin_for(8, 1);
        uint32_t before = taken[0], start = taken[8];
        good = good && spin_for(8, start + 256);
        begin("interrupts in a quarter of a second, in fives, in mode");
        b(modes[i]);
        b(good);
        b((taken[0] - before + 2) / 5);
        end();
        out8(0x70, 0x0b);
        out8(0x71, 0x02);
    }
    for (int mode = 0; mode < 6; mode += mode == 1 ? 3 : 1) {
        pics(0x0101);
        control(0, 3, mode, 0);
        load(0, 1193);
        out8(0x70, 0x0b);
        out8(0x71, 0x12);
        bool good = wait_for(8, 2);
        begin("interrupts of a counter that runs once, in mode");
        b(mode);
        b(good);
        b(taken[0]);
        end();
        out8(0x70, 0x0b);
        out8(0x71, 0x02);
    }
    control(0, 3, 1, 0);
    load(0, 0xffff);
    pics(0);
}

void probe_pit(void)
{
    statuses();
    counts();
    gate();
    interrupts();
}
