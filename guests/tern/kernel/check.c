/*
 * Reading order 34. Before a disk is mounted: does all that is on it fit together? What is found here is
 * believed by inodes.c and ternfs.c afterwards, so whatever somebody has written to the disk, it cannot lead the
 * kernel astray.
 *
 * What holds on a good disk, and after any stop once the log has been replayed:
 *  - each block from data_start on is used once, or not at all; the bitmap says which;
 *  - each file and directory but the root has one name, or none and links is 0 (an orphan);
 *  - the first entry of a directory is "..", and names the directory in which its own name is.
 */
#include "ternfs.h"

/* Marks for blocks and inodes, a bit each. */
static uint8_t *marks[MAX_BLOCKS / 8 / PAGE_SIZE], *names[MAX_INODES / 8 / PAGE_SIZE + 1];

/* Sets a bit; says whether it was set before. */
static bool mark(uint8_t **pages, uint32_t n)
{
    uint8_t *byte = &pages[n / 8 / PAGE_SIZE][n / 8 % PAGE_SIZE], bit = 1 << n % 8;
    bool before = *byte & bit;

    *byte |= bit;
    return before;
}

static bool is_marked(uint8_t **pages, uint32_t n)
{
    return pages[n / 8 / PAGE_SIZE][n / 8 % PAGE_SIZE] & 1 << n % 8;
}

/* ---- blocks ---- */

/* A block in use, 0 is none. Says whether that can be. */
static bool use_block(uint32_t block)
{
    if (block == 0)
        return true;
    return block >= superblock.data_start && block < superblock.blocks && !mark(marks, block);
}

static bool use_tree(uint32_t block, int depth)
{
    if (block == 0)
        return true;
    if (!use_block(block))
        return false;
    for (uint32_t i = 0; i < POINTERS; i++) {
        struct buffer *b = block_get(block); /* again and again: what is below may have taken its place */
        if (!b)
            return false;
        uint32_t below = ((const uint32_t *)b->data)[i];
        if (depth > 1 ? !use_tree(below, depth - 1) : !use_block(below))
            return false;
    }
    return true;
}

static bool use_blocks(const struct inode *inode)
{
    for (int i = 0; i < DIRECT; i++)
        if (!use_block(inode->direct[i]))
            return false;
    return use_tree(inode->indirect, 1) && use_tree(inode->twice_indirect, 2);
}

static const char *check_inodes(void)
{
    struct inode inode;

    for (uint32_t number = 0; number < superblock.inodes; number++) {
        if (inode_load(number, &inode) < 0)
            return "an inode cannot be read";
        if (inode.type == TYPE_NONE)
            continue;
        if (number < ROOT_INODE || inode.links > 1 || inode.size > MAX_FILE_BLOCKS * BLOCK_SIZE ||
            (inode.type != TYPE_FILE && inode.type != TYPE_DIRECTORY))
            return "an inode makes no sense";
        if (!use_blocks(&inode))
            return "a block is used twice, or cannot be used";
    }
    return NULL;
}

static const char *check_bitmap(void)
{
    struct buffer *b = NULL;

    for (uint32_t block = 0; block < superblock.blocks; block++) {
        if (block % BITS_IN_BLOCK == 0)
            b = block_get(superblock.bitmap_start + block / BITS_IN_BLOCK);
        if (!b)
            return "the bitmap cannot be read";
        bool used = b->data[block % BITS_IN_BLOCK / 8] & 1 << block % 8;
        if (used != (block < superblock.data_start || is_marked(marks, block)))
            return "the bitmap is wrong";
    }
    return NULL;
}

/* ---- names ---- */

static const struct disk_entry *entry_of(const struct inode *directory, uint32_t index)
{
    uint32_t per_block = BLOCK_SIZE / sizeof(struct disk_entry), block = block_of(directory, index / per_block);
    struct buffer *b = block ? block_get(block) : NULL;

    return b ? (const struct disk_entry *)b->data + index % per_block : NULL;
}

static bool name_is_good(const char *name)
{
    uint32_t length = 0;

    while (length < FILE_NAME_SIZE && name[length] && name[length] != '/')
        length++;
    return length > 0 && length < FILE_NAME_SIZE && !name[length] && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

/* An entry in directory number. */
static bool entry_is_good(uint32_t number, struct disk_entry e)
{
    struct inode inode;

    if (e.inode == 0)
        return true;
    if (e.inode >= superblock.inodes || !name_is_good(e.name) || mark(names, e.inode) ||
        inode_load(e.inode, &inode) < 0 || inode.type == TYPE_NONE || inode.links != 1)
        return false;
    if (inode.type != TYPE_DIRECTORY)
        return true;
    const struct disk_entry *up = inode.size > 0 ? entry_of(&inode, 0) : NULL;
    return up && up->inode == number && strcmp(up->name, "..") == 0;
}

static bool directory_is_good(uint32_t number, const struct inode *directory)
{
    if (directory->size == 0 || directory->size % sizeof(struct disk_entry) != 0)
        return false;
    for (uint32_t i = 0; i < directory->size / sizeof(struct disk_entry); i++) {
        const struct disk_entry *e = entry_of(directory, i);
        if (!e)
            return false;
        if (i == 0 ? strncmp(e->name, "..", 3) != 0 : !entry_is_good(number, *e))
            return false;
    }
    return true;
}

static const char *check_names(uint32_t *orphans)
{
    struct inode inode;
    const struct disk_entry *up;

    if (inode_load(ROOT_INODE, &inode) < 0 || inode.type != TYPE_DIRECTORY || inode.links != 1 ||
        !(up = entry_of(&inode, 0)) || up->inode != ROOT_INODE)
        return "there is no root directory";
    mark(names, ROOT_INODE);
    for (uint32_t number = ROOT_INODE; number < superblock.inodes; number++) {
        if (inode_load(number, &inode) < 0)
            return "an inode cannot be read";
        if (inode.type == TYPE_DIRECTORY && inode.links > 0 && !directory_is_good(number, &inode))
            return "a directory is damaged";
    }
    for (uint32_t number = ROOT_INODE; number < superblock.inodes; number++) {
        if (inode_load(number, &inode) < 0)
            return "an inode cannot be read";
        if (inode.type == TYPE_NONE)
            continue;
        if (is_marked(names, number) != (inode.links == 1))
            return "a file has lost its name";
        *orphans += inode.links == 0;
    }
    return NULL;
}

/* ---- all of it ---- */

static bool allocate(uint8_t **pages, uint32_t bits)
{
    for (uint32_t i = 0; i * 8 * PAGE_SIZE < bits; i++) {
        uint32_t frame = frame_allocate_zeroed();
        if (!frame)
            return false;
        pages[i] = to_virtual(frame);
    }
    return true;
}

static void release(uint8_t **pages, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (pages[i])
            frame_release(to_physical(pages[i]));
}

/* Says what is wrong, or NULL. Counts the orphans. */
const char *check(uint32_t *orphans)
{
    const char *wrong = "no memory";

    if (allocate(marks, superblock.blocks) && allocate(names, superblock.inodes)) {
        wrong = check_inodes();
        if (!wrong)
            wrong = check_bitmap();
        if (!wrong)
            wrong = check_names(orphans);
    }
    release(marks, NELEMENTS(marks));
    release(names, NELEMENTS(names));
    return wrong;
}
