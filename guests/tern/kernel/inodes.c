/*
 * Reading order 32. Inodes, the blocks that they name, and what is in these. Inodes are copied out, changed,
 * and stored back. check.c has looked at everything before the first operation, so numbers found on the disk
 * are believed here. Must hold throughout: an operation has begun.
 */
#include "ternfs.h"

uint32_t free_blocks;

/* ---- inodes ---- */

/* An inode in its block's buffer, or NULL. */
static struct inode *inode_in(uint32_t number, struct buffer **buffer)
{
    *buffer = block_get(superblock.inode_start + number / INODES_IN_BLOCK);
    return *buffer ? (struct inode *)(*buffer)->data + number % INODES_IN_BLOCK : NULL;
}

int inode_load(uint32_t number, struct inode *inode)
{
    struct buffer *buffer;
    const struct inode *found = inode_in(number, &buffer);

    if (found)
        *inode = *found;
    return found ? 0 : -E_IO;
}

int inode_store(uint32_t number, const struct inode *inode)
{
    struct buffer *buffer;
    struct inode *found = inode_in(number, &buffer);

    if (!found)
        return -E_IO;
    *found = *inode;
    log_block(buffer);
    return 0;
}

/* A number for a new file, or an error. */
int inode_allocate(int type)
{
    struct inode inode;

    for (uint32_t number = ROOT_INODE; number < superblock.inodes; number++) {
        if (inode_load(number, &inode) < 0)
            return -E_IO;
        if (inode.type != TYPE_NONE)
            continue;
        inode = (struct inode){.type = type, .links = 1};
        int error = inode_store(number, &inode);
        return error ? error : (int)number;
    }
    return -E_NOSPACE;
}

/* ---- blocks ---- */

static struct buffer *bitmap_of(uint32_t block)
{
    return block_get(superblock.bitmap_start + block / BITS_IN_BLOCK);
}

/* A block of zeros that nobody has, or 0: the disk is full, or fails. */
static uint32_t block_allocate(void)
{
    static uint32_t hint;

    if (free_blocks == 0)
        return 0;
    for (uint32_t i = 0; i < superblock.blocks; i++, hint++) {
        if (hint < superblock.data_start || hint >= superblock.blocks)
            hint = superblock.data_start;
        struct buffer *bitmap = bitmap_of(hint);
        if (!bitmap)
            return 0;
        uint8_t *byte = &bitmap->data[hint % BITS_IN_BLOCK / 8], bit = 1 << hint % 8;
        if (*byte & bit)
            continue;
        *byte |= bit;
        log_block(bitmap);
        free_blocks--;
        log_block(block_fresh(hint));
        return hint++;
    }
    return 0;
}

static void block_free(uint32_t block)
{
    struct buffer *bitmap = block ? bitmap_of(block) : NULL;

    if (!bitmap)
        return;
    bitmap->data[block % BITS_IN_BLOCK / 8] &= ~(1 << block % 8);
    log_block(bitmap);
    free_blocks++;
}

/* To be called once, when a disk is mounted. */
void blocks_count(void)
{
    struct buffer *bitmap = NULL;

    for (uint32_t block = 0; block < superblock.blocks; block++) {
        if (block % BITS_IN_BLOCK == 0)
            bitmap = bitmap_of(block);
        free_blocks += bitmap && !(bitmap->data[block % BITS_IN_BLOCK / 8] & 1 << block % 8);
    }
}

/* What *pointer names, allocated if it names nothing and that is asked for. */
static uint32_t follow(uint32_t *pointer, bool allocate)
{
    if (*pointer == 0 && allocate)
        *pointer = block_allocate();
    return *pointer;
}

/* The same for a number in a block of numbers. */
static uint32_t follow_in(uint32_t block, uint32_t index, bool allocate)
{
    struct buffer *b = block ? block_get(block) : NULL;

    if (!b)
        return 0;
    uint32_t *pointer = (uint32_t *)b->data + index, before = *pointer;
    uint32_t found = follow(pointer, allocate);
    if (found != before)
        log_block(b);
    return found;
}

/* The index-th block of a file, or 0 for a hole (or, when allocating, a full disk). */
static uint32_t map(struct inode *inode, uint32_t index, bool allocate)
{
    if (index < DIRECT)
        return follow(&inode->direct[index], allocate);
    index -= DIRECT;
    if (index < POINTERS)
        return follow_in(follow(&inode->indirect, allocate), index, allocate);
    index -= POINTERS;
    uint32_t block = follow_in(follow(&inode->twice_indirect, allocate), index / POINTERS, allocate);
    return follow_in(block, index % POINTERS, allocate);
}

uint32_t block_of(const struct inode *inode, uint32_t index)
{
    return map((struct inode *)inode, index, false);
}

/* Free a block of numbers and what it names; depth 1: blocks of a file, 2: blocks of numbers. */
static void free_tree(uint32_t block, int depth)
{
    if (block == 0)
        return;
    for (uint32_t i = 0; i < POINTERS; i++) {
        uint32_t below = follow_in(block, i, false);
        if (depth > 1)
            free_tree(below, depth - 1);
        else
            block_free(below);
    }
    block_free(block);
}

/* Give back all blocks of a file, and leave it empty. The caller stores the inode. */
void inode_empty(struct inode *inode)
{
    for (int i = 0; i < DIRECT; i++)
        block_free(inode->direct[i]);
    free_tree(inode->indirect, 1);
    free_tree(inode->twice_indirect, 2);
    *inode = (struct inode){.type = inode->type, .links = inode->links};
}

void inode_free(uint32_t number, struct inode *inode)
{
    inode_empty(inode);
    inode->type = TYPE_NONE;
    inode_store(number, inode);
}

/* ---- contents ---- */

int inode_read(struct inode *inode, char *to, uint32_t offset, uint32_t size)
{
    uint32_t done = 0;

    if (offset >= inode->size)
        return 0;
    if (size > inode->size - offset)
        size = inode->size - offset;
    while (done < size) {
        uint32_t at = offset + done, rest = BLOCK_SIZE - at % BLOCK_SIZE;
        uint32_t n = size - done < rest ? size - done : rest, block = map(inode, at / BLOCK_SIZE, false);
        struct buffer *b = block ? block_get(block) : NULL;
        if (block && !b)
            return -E_IO;
        if (b)
            memcpy(to + done, b->data + at % BLOCK_SIZE, n);
        else
            memset(to + done, 0, n);
        done += n;
    }
    return done;
}

/* At most PIECE blocks. Returns how much was written, less than size if the disk is full; or an error. */
int inode_write(uint32_t number, struct inode *inode, const char *from, uint32_t offset, uint32_t size)
{
    uint32_t done = 0;

    while (done < size) {
        uint32_t at = offset + done, rest = BLOCK_SIZE - at % BLOCK_SIZE;
        uint32_t n = size - done < rest ? size - done : rest;
        uint32_t block = at / BLOCK_SIZE < MAX_FILE_BLOCKS ? map(inode, at / BLOCK_SIZE, true) : 0;
        if (block == 0)
            break;
        struct buffer *b = block_get(block);
        if (!b)
            return -E_IO;
        memcpy(b->data + at % BLOCK_SIZE, from + done, n);
        log_block(b);
        done += n;
    }
    if (done > 0 && offset + done > inode->size)
        inode->size = offset + done;
    int error = inode_store(number, inode);
    return error ? error : (int)done;
}
