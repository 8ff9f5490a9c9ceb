/* The MC146818 clock and its memory (Motorola data sheet). It waits by HLT, so that seconds pass quickly. */
#include "probes.h"

enum { SECONDS = 0, MINUTES = 2, HOURS = 4, WEEKDAY = 6, DAY = 7, MONTH = 8, YEAR = 9, CENTURY = 0x32 };
enum { A = 10, B, C, D };
enum { SET = 0x80, PERIODIC = 0x40, ALARM = 0x20, UPDATE = 0x10, BINARY = 4, HOURS_24 = 2 };

static uint8_t get(uint8_t index)
{
    out8(0x70, index);
    return in8(0x71);
}

static void set(uint8_t index, uint8_t value)
{
    out8(0x70, index);
    out8(0x71, value);
}

static void memory(void)
{
    for (int row = 0; row < 128; row += 16) {
        begin("memory");
        b(row);
        for (int i = row; i < row + 16; i++)
            if (i > 13 && i != CENTURY && i != 0x37)
                b(get(i));
        end();
    }
    begin("the index port reads, and takes seven bits");
    out8(0x70, 0xae);
    b(in8(0x70));
    out8(0x71, 0x5a);
    b(in8(0x71));
    b(get(0x2e));
    end();
    begin("memory keeps what is written");
    for (int i = 0x40; i < 0x80; i += 5) {
        uint8_t before = get(i);
        set(i, ~i);
        b(get(i));
        set(i, before);
    }
    end();
}

static void control(void)
{
    static const uint8_t values[] = { 0x00, 0xff, 0x82, 0x7a, 0x26 };

    begin("registers A to D as found");
    for (int i = A; i <= D; i++)
        b(get(i) & (i == A ? 0x7f : 0xff));
    end();
    for (int i = A; i <= D; i++) {
        begin("register, patterns");
        b(i);
        for (uint32_t j = 0; j < sizeof values; j++) {
            set(i, values[j]);
            b(get(i) & (i == A ? 0x7f : 0xff));
        }
        set(A, 0x26);
        set(B, HOURS_24);
        get(C);
        end();
    }
}

static void show_date(const char *name)
{
    static const uint8_t registers[] = { SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY, 0x37 };

    begin(name);
    for (uint32_t i = 0; i < sizeof registers; i++)
        b(get(registers[i]));
    end();
}

static uint8_t coded(uint8_t format, int value)
{
    return format & BINARY ? value : value / 10 << 4 | value % 10;
}

static void set_date(uint8_t format, int century, int year, int month, int day, int hour, int minute, int second)
{
    set(B, SET | format);
    set(CENTURY, coded(format, century));
    set(YEAR, coded(format, year));
    set(MONTH, coded(format, month));
    set(DAY, coded(format, day));
    if (format & HOURS_24)
        set(HOURS, coded(format, hour));
    else
        set(HOURS, coded(format, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0));
    set(MINUTES, coded(format, minute));
    set(SECONDS, coded(format, second));
}

/* Stops just before the turn of each unit, then starts, and looks after one update. */
static void dates(void)
{
    static const int moments[][7] = {
        { 19, 99, 12, 31, 23, 59, 59 }, { 20, 0, 2, 28, 23, 59, 59 }, { 20, 23, 2, 28, 23, 59, 59 },
        { 20, 24, 2, 29, 23, 59, 59 },  { 20, 99, 4, 30, 11, 59, 59 }, { 20, 10, 10, 10, 0, 9, 59 },
        { 19, 70, 1, 1, 12, 0, 0 },     { 21, 0, 2, 28, 23, 59, 59 },  { 20, 38, 1, 19, 3, 14, 7 },
    };

    for (uint8_t format = 0; format < 8; format += 2) {
        for (uint32_t i = 0; i < sizeof moments / sizeof moments[0]; i++) {
            const int *m = moments[i];
            set_date(format, m[0], m[1], m[2], m[3], m[4], m[5], m[6]);
            show_date("stopped");
            get(C);
            pics(0x0100);
            set(B, format | UPDATE);
            wait_for(8, 1);
            show_date("after an update");
            set(B, format);
        }
    }
}

static void alarms(void)
{
    static const uint8_t alarm[][3] = {
        { 0x03, 0x00, 0x10 }, { 0x05, 0xc0, 0xc0 }, { 0xff, 0xc0, 0xff }, { 0x02, 0x00, 0xc0 }, { 0xc7, 0x00, 0x10 },
    };

    for (uint32_t i = 0; i < sizeof alarm / sizeof alarm[0]; i++) {
        set_date(HOURS_24, 20, 1, 9, 9, 10, 0, 0);
        set(1, alarm[i][0]);
        set(3, alarm[i][1]);
        set(5, alarm[i][2]);
        get(C);
        pics(0x0100);
        set(B, HOURS_24 | ALARM);
        bool good = wait_for(8, 1);
        begin("alarm: came, at");
        b(good);
        b(get(SECONDS));
        b(get(MINUTES));
        b(get(1));
        end();
        set(B, HOURS_24);
    }
}

/* Periodic interrupts in a quarter of a second that the timer measures, rounded. */
static void periods(void)
{
    for (int rate = 0; rate < 16; rate++) {
        if (rate >= 3 && rate <= 5)
            continue; /* more than 1024 a second */
        set(A, 0x20 | rate);
        get(C);
        pics(0x0101);
        out8(0x43, 0x34);
        out8(0x40, 11932 & 0xff);
        out8(0x40, 11932 >> 8);
        set(B, HOURS_24 | PERIODIC);
        bool good = rate == 0 || wait_for(8, 1);
        uint32_t ticks = taken[0], before = taken[8];
        if (rate < 12)
            spin_for(0, ticks + 25); /* 100 a second */
        uint32_t number = taken[8] - before, step = number > 24 ? 16 : 8;
        begin("periodic interrupts of rate");
        b(rate);
        b(good);
        w((number + step / 2) / step);
        end();
        set(B, HOURS_24);
        out8(0x43, 0x32);
        out8(0x40, 0xff);
        out8(0x40, 0xff);
    }
    set(A, 0x26);
    pics(0);
}

/* Flags are raised whether or not their interrupt is on; reading takes them back. */
static void flags(void)
{
    get(C);
    set(B, HOURS_24);
    pics(0x0001);
    out8(0x43, 0x34);
    out8(0x40, 11932 & 0xff);
    out8(0x40, 11932 >> 8);
    wait_for(0, 120);
    begin("flags after more than a second, and again");
    b(get(C));
    b(get(C));
    end();
    set(B, SET | HOURS_24);
    wait_for(0, 240);
    begin("flags while the clock is stopped");
    b(get(C));
    b(get(A) & 0x80);
    end();
    set(B, HOURS_24);
    set(A, 0x66); /* the divider held in reset */
    get(C);
    wait_for(0, 360);
    begin("flags while the divider is reset");
    b(get(C));
    end();
    set(A, 0x26);
    out8(0x43, 0x32);
    out8(0x40, 0xff);
    out8(0x40, 0xff);
    pics(0);
}

void probe_rtc(void)
{
    memory();
    control();
    dates();
    alarms();
    periods();
    flags();
}
