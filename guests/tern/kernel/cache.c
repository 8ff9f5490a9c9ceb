/*
 * Reading order 30. Blocks of the disk in memory.
 *
 * Everything from here to ternfs.c runs under one lock, that of the file system (operation_begin()), so
 * blocks need none of their own. A buffer that was asked for stays until BUFFERS others less those in
 * the log have been asked for, far longer than anybody holds one.
 */
#include "ternfs.h"

#define SECTORS (BLOCK_SIZE / SECTOR_SIZE)

static struct buffer buffers[BUFFERS];
static uint32_t now;

int cache_init(void)
{
    for (int i = 0; i < BUFFERS; i++) {
        uint32_t in_frame = i % (PAGE_SIZE / BLOCK_SIZE);
        uint32_t frame = in_frame == 0 ? frame_allocate() : 0;
        if (in_frame == 0 && !frame)
            return -E_MEMORY;
        buffers[i].data = in_frame == 0 ? to_virtual(frame) : buffers[i - 1].data + BLOCK_SIZE;
    }
    return 0;
}

int block_read(uint32_t block, void *data)
{
    return disk_read(block * SECTORS, SECTORS, data);
}

int block_write(uint32_t block, const void *data)
{
    return disk_write(block * SECTORS, SECTORS, data);
}

/* The buffer that holds a block, or the one that has not been asked for longest; *found says which. */
static struct buffer *find(uint32_t block, bool *found)
{
    struct buffer *oldest = NULL;

    for (struct buffer *b = buffers; b < buffers + BUFFERS; b++) {
        *found = b->block == block;
        if (*found) {
            b->stamp = ++now;
            return b;
        }
        if (!b->logged && (!oldest || (int32_t)(b->stamp - oldest->stamp) < 0))
            oldest = b;
    }
    assert(oldest);
    oldest->stamp = ++now;
    return oldest;
}

/* A block with its contents, or NULL if the disk fails. */
struct buffer *block_get(uint32_t block)
{
    bool found;
    struct buffer *b = find(block, &found);

    if (found)
        return b;
    b->block = 0;
    if (block_read(block, b->data) < 0)
        return NULL;
    b->block = block;
    return b;
}

/* A block full of zeros, whatever it held before. */
struct buffer *block_fresh(uint32_t block)
{
    bool found;
    struct buffer *b = find(block, &found);

    b->block = block;
    memset(b->data, 0, BLOCK_SIZE);
    return b;
}
