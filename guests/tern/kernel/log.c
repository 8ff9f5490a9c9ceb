/*
 * Reading order 31. The log: many changes reach the disk at once, or not at all.
 *
 * An operation (creating a file, writing a piece of one) changes blocks in the cache and enters them
 * into the log with log_block(). Operations gather there until the log is full, somebody calls sync(), or
 * a second has passed. Then they are committed together:
 *
 *   1. copies of the blocks go into the log's blocks        (flush)
 *   2. the header, which names them, with their checksum    (flush)    <- from here on it has happened
 *   3. the blocks go home                                   (flush)
 *   4. the header is emptied
 *
 * If the machine stops before 2 is complete, header and copies do not agree, and it is as if nothing had
 * happened; afterwards, the next start repeats step 3, as often as it takes. The flushes keep the drive,
 * which may write in any order in between, from mixing the steps.
 *
 * Invariant: a block in the log is not written to its home, and keeps its buffer, until it is committed.
 */
#include "ternfs.h"

#define MAX_LOGGED (BLOCK_SIZE / 4 - 4)

static struct log_header {
    uint32_t magic, count, checksum, unused;
    uint32_t blocks[MAX_LOGGED];
} header;
_Static_assert(sizeof(struct log_header) == BLOCK_SIZE, "the header is a block");
#define LOG_MAGIC 0x4c4e5254

static struct lock lock;
static struct buffer *logged[BUFFERS];
static uint32_t count, capacity, start;
static bool failed; /* the disk did not take a commit: nothing more is written */
uint32_t log_commits;

/* CRC-32 as in IEEE 802.3, by half-bytes. Begin with 0; may be continued. */
uint32_t crc32(uint32_t crc, const void *data, uint32_t length)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    const uint8_t *at = data;

    crc = ~crc;
    while (length-- > 0) {
        crc ^= *at++;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

static uint32_t header_checksum(void)
{
    return crc32(crc32(0, &header.count, sizeof header.count), header.blocks, header.count * 4);
}

static int write_header(uint32_t n)
{
    header.magic = LOG_MAGIC;
    header.count = n;
    return block_write(start, &header);
}

/* Steps 1 and 2. */
static int write_log(void)
{
    int error = 0;

    header.count = count;
    for (uint32_t i = 0; i < count; i++)
        header.blocks[i] = logged[i]->block;
    uint32_t checksum = header_checksum();
    for (uint32_t i = 0; i < count && !error; i++) {
        checksum = crc32(checksum, logged[i]->data, BLOCK_SIZE);
        error = block_write(start + 1 + i, logged[i]->data);
    }
    header.checksum = checksum;
    if (!error)
        error = disk_flush();
    if (!error)
        error = write_header(count);
    return error ? error : disk_flush();
}

/* Steps 3 and 4. */
static int write_home(void)
{
    int error = 0;

    for (uint32_t i = 0; i < count && !error; i++)
        error = block_write(logged[i]->block, logged[i]->data);
    if (!error)
        error = disk_flush();
    return error ? error : write_header(0);
}

/* Must hold: the lock. */
static int commit(void)
{
    if (failed)
        return -E_IO;
    if (count == 0)
        return 0;
    int error = write_log();
    if (!error)
        error = write_home();
    if (error) {
        failed = true;
        kprintf("disk: writing has failed; nothing more will be written");
        return error;
    }
    for (uint32_t i = 0; i < count; i++)
        logged[i]->logged = false;
    count = 0;
    log_commits++;
    return 0;
}

/* Whoever only reads is between these two. */
void reading_begin(void) { lock_acquire(&lock); }
void reading_end(void) { lock_release(&lock); }

/* And who writes between these; E_IO if the disk does not take it any more. */
int operation_begin(void)
{
    lock_acquire(&lock);
    int error = failed ? -E_IO : count + MAX_OPERATION > capacity ? commit() : 0;
    if (error)
        lock_release(&lock);
    return error;
}

void operation_end(void) { lock_release(&lock); }

/* A buffer has been changed. Must hold: between operation_begin() and operation_end(). */
void log_block(struct buffer *buffer)
{
    assert(lock.holder == current);
    if (buffer->logged)
        return;
    assert(count < capacity);
    buffer->logged = true;
    logged[count++] = buffer;
}

int log_sync(void)
{
    lock_acquire(&lock);
    int error = commit();
    lock_release(&lock);
    return error;
}

/* ---- after a stop ---- */

/* Are the header and the copies what a commit has written? */
static bool is_committed(const struct superblock *s, void *scratch)
{
    if (header.magic != LOG_MAGIC || header.count == 0 || header.count >= s->log_blocks)
        return false;
    uint32_t checksum = header_checksum();
    for (uint32_t i = 0; i < header.count; i++) {
        if (header.blocks[i] < s->inode_start || header.blocks[i] >= s->blocks ||
            block_read(start + 1 + i, scratch) < 0)
            return false;
        checksum = crc32(checksum, scratch, BLOCK_SIZE);
    }
    return checksum == header.checksum;
}

static int replay(void *scratch)
{
    int error = 0;

    for (uint32_t i = 0; i < header.count && !error; i++) {
        error = block_read(start + 1 + i, scratch);
        if (!error)
            error = block_write(header.blocks[i], scratch);
    }
    if (!error)
        error = disk_flush();
    return error ? error : write_header(0);
}

/* Finish what was committed when the machine stopped. Returns how many blocks that were, or an error. */
int log_open(const struct superblock *s)
{
    uint32_t frame = frame_allocate();
    int result = frame ? 0 : -E_MEMORY;

    start = s->log_start;
    capacity = s->log_blocks - 1 < BUFFERS - 24 ? s->log_blocks - 1 : BUFFERS - 24;
    if (!result)
        result = block_read(start, &header);
    if (!result && is_committed(s, to_virtual(frame))) {
        result = header.count;
        int error = replay(to_virtual(frame));
        result = error ? error : result;
    }
    if (frame)
        frame_release(frame);
    return result;
}
