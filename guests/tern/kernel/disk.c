/*
 * Reading order 29. The first disk: an ATA drive at the primary channel, by programmed input and output
 * with interrupts (ATA-4, T13/1153D, 9.7 to 9.9). One command at a time; the caller sees to that.
 */
#include "cpu.h"
#include "kernel.h"

#define IRQ 14
#define BASE 0x1f0

enum { DATA = BASE, ERROR, COUNT, LBA_LOW, LBA_MID, LBA_HIGH, DEVICE, STATUS, COMMAND = STATUS };
#define CONTROL 0x3f6

#define STATUS_ERROR 0x01
#define STATUS_DATA 0x08
#define STATUS_FAULT_BIT 0x20
#define STATUS_BUSY 0x80
#define DEVICE_LBA 0xe0 /* device 0, addressed by sector number */
#define CONTROL_INTERRUPTS 0x00
#define COMMAND_READ 0x20
#define COMMAND_WRITE 0x30
#define COMMAND_FLUSH 0xe7
#define COMMAND_IDENTIFY 0xec

#define POLLS 1000000       /* before we give a drive up, at boot */
#define TIMEOUT_TICKS 1000 /* and later */

struct disk disk;

static volatile bool interrupted;

/* Until the drive is not busy. Returns its status; all bits set if it takes too long. */
static uint8_t poll(void)
{
    for (int i = 0; i < POLLS; i++) {
        uint8_t status = in8(STATUS);
        if (!(status & STATUS_BUSY))
            return status;
    }
    return 0xff;
}

/* Until the drive has done what it was told. At boot nobody can sleep, so we look again and again. */
static uint8_t wait_interrupt(void)
{
    if (!process_may_sleep())
        return poll();
    interrupts_off();
    uint32_t until = ticks + TIMEOUT_TICKS;
    while (!interrupted && (int32_t)(ticks - until) < 0) {
        current->wake_tick = until ? until : 1;
        wait_on(&disk);
    }
    current->wake_tick = 0;
    interrupted = false;
    interrupts_on();
    return poll();
}

void disk_interrupt(void)
{
    in8(STATUS); /* the drive takes its request back */
    interrupted = true;
    wakeup(&disk);
}

static bool good(uint8_t status, uint8_t wanted)
{
    return !(status & (STATUS_BUSY | STATUS_FAULT_BIT | STATUS_ERROR)) && (status & wanted) == wanted;
}

static void command(uint8_t code, uint32_t sector, uint32_t count)
{
    interrupted = false;
    out8(DEVICE, DEVICE_LBA | (sector >> 24 & 0x0f));
    out8(COUNT, count);
    out8(LBA_LOW, sector);
    out8(LBA_MID, sector >> 8);
    out8(LBA_HIGH, sector >> 16);
    out8(COMMAND, code);
}

static bool in_range(uint32_t sector, uint32_t count)
{
    return count > 0 && count < 256 && sector < disk.sectors && count <= disk.sectors - sector;
}

/* The drive interrupts before each sector. */
int disk_read(uint32_t sector, uint32_t count, void *to)
{
    if (!in_range(sector, count))
        return -E_IO;
    disk.reads++;
    command(COMMAND_READ, sector, count);
    for (char *at = to; count > 0; count--, at += SECTOR_SIZE) {
        if (!good(wait_interrupt(), STATUS_DATA))
            return -E_IO;
        in16_many(DATA, at, SECTOR_SIZE / 2);
    }
    return 0;
}

/* The drive interrupts after each sector. What it has taken may still be in its cache. */
int disk_write(uint32_t sector, uint32_t count, const void *from)
{
    if (!in_range(sector, count))
        return -E_IO;
    disk.writes++;
    command(COMMAND_WRITE, sector, count);
    uint8_t status = poll();
    for (const char *at = from; count > 0; count--, at += SECTOR_SIZE) {
        if (!good(status, STATUS_DATA))
            return -E_IO;
        out16_many(DATA, at, SECTOR_SIZE / 2);
        status = wait_interrupt();
    }
    return good(status, 0) ? 0 : -E_IO;
}

/* When this returns, all that was written is safe. */
int disk_flush(void)
{
    disk.flushes++;
    command(COMMAND_FLUSH, 0, 0);
    return good(wait_interrupt(), 0) ? 0 : -E_IO;
}

/* Are there registers at all? Where nothing is, ports give all ones, or what was on the bus last. */
static bool channel_present(void)
{
    out8(DEVICE, DEVICE_LBA);
    out8(COUNT, 0x55);
    out8(LBA_LOW, 0xaa);
    return in8(STATUS) != 0xff && in8(COUNT) == 0x55 && in8(LBA_LOW) == 0xaa;
}

void disk_init(void)
{
    static uint16_t identity[SECTOR_SIZE / 2];

    if (!channel_present())
        return;
    command(COMMAND_IDENTIFY, 0, 0);
    if (in8(STATUS) == 0) /* no drive */
        return;
    if (!good(poll(), STATUS_DATA))
        return; /* a CD-ROM, or something else that we do not know */
    in16_many(DATA, identity, SECTOR_SIZE / 2);
    if (!(identity[49] & 0x200))
        return; /* it has no sector numbers, only cylinders and heads */
    disk.sectors = identity[60] | (uint32_t)identity[61] << 16;
    for (int i = 0; i < 20; i++) { /* two characters in a word, the first in the upper half */
        disk.model[2 * i] = identity[27 + i] >> 8;
        disk.model[2 * i + 1] = identity[27 + i];
    }
    for (int i = 39; i >= 0 && disk.model[i] == ' '; i--)
        disk.model[i] = 0;
    in8(STATUS);
    out8(CONTROL, CONTROL_INTERRUPTS);
    pic_enable(IRQ);
}
