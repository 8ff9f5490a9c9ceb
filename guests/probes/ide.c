/*
 * The IDE channels (ATA/ATAPI-6, T13/1410D). The first drive of the first channel is expected to be a disk
 * of at least 2048 sectors, on which sectors 100 to 163 may be overwritten.
 */
#include "probes.h"

enum { DATA, FEATURE, COUNT, SECTOR, LOW, HIGH, DEVICE, COMMAND, ERROR = FEATURE, STATUS = COMMAND };
enum { BUSY = 0x80, REQUEST = 0x08 };
enum { NIEN = 2, SRST = 4, HOB = 0x80 };

static uint16_t base, control;
static uint16_t buffer[16 * 256];

static void choose(int channel)
{
    base = channel ? 0x170 : 0x1f0;
    control = channel ? 0x376 : 0x3f6;
}

static void settle(void)
{
    for (int i = 0; i < 1000000 && in8(control) & BUSY; i++)
        ;
}

static void registers(const char *name)
{
    begin(name);
    b(in8(control));
    for (int i = ERROR; i <= STATUS; i++)
        b(in8(base + i));
    end();
}

/* A command with a 28-bit address. */
static void give(uint8_t code, uint32_t sector, uint8_t count, uint8_t feature, uint8_t device)
{
    out8(base + DEVICE, device | (sector >> 24 & 15));
    out8(base + FEATURE, feature);
    out8(base + COUNT, count);
    out8(base + SECTOR, sector);
    out8(base + LOW, sector >> 8);
    out8(base + HIGH, sector >> 16);
    out8(base + COMMAND, code);
    settle();
}

static uint32_t checksum(const uint16_t *words, uint32_t count)
{
    uint32_t sum = 0x811c9dc5;
    while (count-- > 0)
        sum = (sum ^ *words++) * 0x01000193;
    return sum;
}

static void reset(void)
{
    out8(control, SRST);
    for (volatile int i = 0; i < 1000; i++)
        ;
    out8(control, 0);
    settle();
    for (volatile int i = 0; i < 300000 && !in8(base + STATUS); i++)
        ;
}

static void presence(void)
{
    for (int channel = 0; channel < 2; channel++) {
        choose(channel);
        registers("as found");
        for (int device = 0xa0; device <= 0xb0; device += 0x10) {
            out8(base + DEVICE, device);
            registers("drive");
            out8(base + COUNT, 0x55);
            out8(base + SECTOR, 0xaa);
            registers("written");
        }
        begin("wide");
        out8(base + DEVICE, 0xa0);
        for (int i = 0; i < 8; i++)
            w(in16(base + i));
        w(in16(control));
        l(in32(base));
        l(in32(base + 4));
        end();
    }
    choose(0);
}

static void identity(uint8_t device)
{
    give(0xec, 0, 0, 0, device);
    registers("identify");
    in16_many(base, buffer, 256);
    for (int row = 0; row < 256; row += 16) {
        begin("word");
        b(row);
        for (int i = row; i < row + 16; i++)
            w(buffer[i]);
        end();
    }
    registers("identified");
}

static void reading(void)
{
    static const struct { uint8_t code, count; } ways[] = {
        { 0x20, 1 }, { 0x21, 2 }, { 0x20, 16 }, { 0xc4, 1 }, { 0xc4, 16 }, { 0xc4, 40 }, { 0x20, 0 },
    };

    for (uint32_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        int left = ways[i].count ? ways[i].count : 256, block = ways[i].code == 0xc4 ? 16 : 1;
        uint32_t sum = 0;
        give(ways[i].code, 33, ways[i].count, 0, 0xe0);
        registers("read");
        while (left > 0) {
            int here = left < block ? left : block;
            in16_many(base, buffer, 256 * here);
            sum = sum * 31 + checksum(buffer, 256 * here);
            left -= here;
            settle();
        }
        registers("is read");
        begin("checksum");
        l(sum);
        end();
    }
    give(0x20, 0, 1, 0, 0xe0);
    begin("by double words and single bytes");
    l(in32(base));
    l(in32(base));
    b(in8(base));
    b(in8(base));
    w(in16(base));
    end();
    in16_many(base, buffer, 256);
    registers("and more than there is");
    /* Cylinders, heads, sectors */
    for (int head = 0; head < 16; head += 5) {
        give(0x20, 1 << 8 | (1 + head), 1, 0, 0xa0 | head);
        in16_many(base, buffer, 256);
        begin("cylinder 1, head, checksum");
        b(head);
        l(checksum(buffer, 256));
        end();
        registers("where it stands");
    }
    give(0x91, 0, 32, 0, 0xa7);
    registers("8 heads of 32 sectors");
    give(0x20, 1 << 8 | 1, 1, 0, 0xa1);
    in16_many(base, buffer, 256);
    begin("cylinder 1, head 1, checksum");
    l(checksum(buffer, 256));
    end();
    registers("where it stands");
    give(0xef, 0, 0, 0xcc, 0xa0);
    reset();
}

static void high_first(uint8_t code, uint32_t sector, uint16_t count)
{
    out8(base + DEVICE, 0xe0);
    out8(base + COUNT, count >> 8);
    out8(base + COUNT, count);
    out8(base + SECTOR, sector >> 24);
    out8(base + SECTOR, sector);
    out8(base + LOW, 0);
    out8(base + LOW, sector >> 8);
    out8(base + HIGH, 0);
    out8(base + HIGH, sector >> 16);
    out8(base + COMMAND, code);
    settle();
}

static void extended(void)
{
    static const uint8_t codes[] = { 0x24, 0x29, 0x42, 0x27 };

    for (uint32_t i = 0; i < sizeof codes; i++) {
        high_first(codes[i], 77, 2);
        registers("48 bits");
        out8(control, HOB);
        registers("what was written before");
        out8(control, 0);
        for (int left = 2; left > 0 && in8(base + STATUS) & REQUEST; left--) {
            in16_many(base, buffer, 256);
            settle();
        }
        registers("over");
        reset();
    }
}

static void writing(void)
{
    static const struct { uint8_t code, count; } ways[] = { { 0x30, 1 }, { 0x31, 3 }, { 0xc5, 16 }, { 0xc5, 20 }, { 0x3c, 2 } };

    for (uint32_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        int block = ways[i].code == 0xc5 ? 16 : 1;
        give(ways[i].code, 100, ways[i].count, 0, 0xe0);
        registers("write");
        for (int left = ways[i].count; left > 0; left -= block) {
            int here = left < block ? left : block;
            for (int j = 0; j < 256 * here; j++)
                buffer[j] = (i + 1) * 0x1234 + 7 * j + left;
            out16_many(base, buffer, 256 * here);
            settle();
            registers(left > block ? "next" : "is written");
        }
        give(0xe7, 0, 0, 0, 0xe0);
        registers("flushed");
        give(0xc4, 100, 16, 0, 0xe0);
        in16_many(base, buffer, 256 * 16);
        begin("read back");
        l(checksum(buffer, 256 * 16));
        end();
    }
}

static void errors(void)
{
    begin("every code that is refused");
    for (int code = 0; code < 256; code++) {
        give(code, 0, 1, 0, 0xe0);
        if (in8(base + STATUS) & 1)
            b(code);
        if (in8(control) & REQUEST)
            reset();
    }
    end();
    reset();
    identity(0xe0);
    uint32_t size = buffer[60] | buffer[61] << 16;
    give(0x20, size, 1, 0, 0xe0);
    registers("past the end");
    give(0x20, size - 1, 2, 0, 0xe0);
    registers("the last, and one more");
    in16_many(base, buffer, 256);
    settle();
    registers("and one more");
    give(0x30, size, 1, 0, 0xe0);
    out16_many(base, buffer, 256);
    settle();
    registers("written past the end");
    give(0x20, 0, 1, 0, 0xa0);
    registers("sector 0 of a track");
    give(0x20, 5, 1, 0, 0xe0);
    out8(base + COUNT, 9);
    out8(base + COMMAND, 0xec);
    registers("written to while data wait");
    in16_many(base, buffer, 256);
    begin("they are still the same");
    l(checksum(buffer, 256));
    end();
}

static void settings(void)
{
    static const uint8_t features[] = { 0x02, 0x82, 0x03, 0xaa, 0x55, 0x66, 0xcc, 0x05, 0x85, 0x01, 0x99 };

    for (uint32_t i = 0; i < sizeof features; i++) {
        give(0xef, 0, 0x42, features[i], 0xe0);
        registers("feature");
    }
    for (int multiple = 0; multiple <= 32; multiple += multiple ? multiple : 1) {
        give(0xc6, 0, multiple, 0, 0xe0);
        registers("multiple");
    }
    static const uint8_t codes[] = { 0x10, 0x40, 0x70, 0x90, 0x94, 0xe0, 0xe1, 0xe2, 0xe3, 0xe5, 0xe6, 0xf8, 0xb0 };
    for (uint32_t i = 0; i < sizeof codes; i++) {
        give(codes[i], 0x123456, 7, 0, 0xe0);
        registers("command");
    }
    identity(0xe0);
}

static void interrupts(void)
{
    pics(0xc000);
    reset();
    window();
    begin("interrupts of a reset");
    b(taken[14]);
    b(taken[15]);
    end();
    forget_interrupts();
    give(0xc4, 10, 40, 0, 0xe0);
    window();
    for (int left = 40; left > 0; left -= 16) {
        in16_many(base, buffer, 256 * (left < 16 ? left : 16));
        settle();
        window();
    }
    in8(base + STATUS);
    begin("of reading three blocks");
    b(taken[14]);
    end();
    forget_interrupts();
    give(0x30, 110, 2, 0, 0xe0);
    window();
    for (int i = 0; i < 2; i++) {
        out16_many(base, buffer, 256);
        settle();
        window();
        in8(base + STATUS);
    }
    begin("of writing two sectors");
    b(taken[14]);
    end();
    forget_interrupts();
    out8(control, NIEN);
    give(0x20, 10, 1, 0, 0xe0);
    window();
    in16_many(base, buffer, 256);
    give(0x10, 0, 0, 0, 0xe0);
    window();
    out8(control, 0);
    window();
    begin("with interrupts off, then on");
    b(taken[14]);
    end();
    give(0x10, 0, 0, 0, 0xe0);
    begin("the line is up until the status is read");
    out8(0xa0, 0x0a);
    b(in8(0xa0));
    in8(control);
    b(in8(0xa0));
    in8(base + STATUS);
    b(in8(0xa0));
    end();
    forget_interrupts();
    give(0x20, 3, 1, 0, 0xe0);
    bool good = wait_for(14, 1);
    begin("waited for");
    b(good);
    end();
    in16_many(base, buffer, 256);
    pics(0);
}

void probe_ide(void)
{
    presence();
    identity(0xa0);
    reading();
    extended();
    writing();
    errors();
    settings();
    interrupts();
    choose(0);
    give(0xec, 0, 0, 0, 0xb0);
    registers("the other drive");
    choose(1);
    give(0xec, 0, 0, 0, 0xa0);
    registers("the other channel");
    reset();
    registers("reset");
    choose(0);
    out8(base + DEVICE, 0xa0);
    reset();
    registers("at the end");
}
