/*
 * Reading order 32. The file system on the disk (ternfs.h): inodes, their blocks, and directories.
 *
 * Every function that the outside calls is one operation, or several small ones (write), between
 * operation_begin() and operation_end(): the log makes each of them happen as a whole or not at all.
 * Inodes are copied out, changed, and stored back. check.c has looked at everything before the first
 * operation, so numbers found on the disk are believed here.
 */
#include "ternfs.h"

struct superblock superblock;

static bool mounted;
static uint32_t free_blocks;

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
static int inode_allocate(int type)
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
static void empty(struct inode *inode)
{
    for (int i = 0; i < DIRECT; i++)
        block_free(inode->direct[i]);
    free_tree(inode->indirect, 1);
    free_tree(inode->twice_indirect, 2);
    *inode = (struct inode){.type = inode->type, .links = inode->links};
}

void inode_free(uint32_t number, struct inode *inode)
{
    empty(inode);
    inode->type = TYPE_NONE;
    inode_store(number, inode);
}

/* ---- contents. Must hold, up to the operations: an operation has begun ---- */

static int read_inode(struct inode *inode, char *to, uint32_t offset, uint32_t size)
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
static int write_inode(uint32_t number, struct inode *inode, const char *from, uint32_t offset, uint32_t size)
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

/* ---- directories ---- */

/* The entry of that name, or the first free place if name is NULL. Returns its offset, or an error. */
static int find_entry(struct inode *directory, const char *name, struct disk_entry *e)
{
    uint32_t offset = 0;

    if (directory->type != TYPE_DIRECTORY)
        return -E_NOTDIRECTORY;
    for (; offset < directory->size; offset += sizeof *e) {
        int n = read_inode(directory, (char *)e, offset, sizeof *e);
        if (n < 0)
            return n;
        if (name ? e->inode && strcmp(e->name, name) == 0 : !e->inode)
            return offset;
    }
    return name ? -E_NOTFOUND : (int)offset;
}

static int write_entry(uint32_t number, struct inode *directory, uint32_t offset, uint32_t inode, const char *name)
{
    struct disk_entry e = {.inode = inode};

    strlcpy(e.name, name, sizeof e.name);
    int n = write_inode(number, directory, (const char *)&e, offset, sizeof e);
    return n < 0 ? n : n < (int)sizeof e ? -E_NOSPACE : 0;
}

static int add_entry(uint32_t number, struct inode *directory, uint32_t inode, const char *name)
{
    struct disk_entry e;
    int offset = find_entry(directory, NULL, &e);

    return offset < 0 ? offset : write_entry(number, directory, offset, inode, name);
}

/* Is there nothing in it but ".."? */
static bool directory_is_empty(struct inode *directory)
{
    struct disk_entry e;

    for (uint32_t offset = sizeof e; offset < directory->size; offset += sizeof e)
        if (read_inode(directory, (char *)&e, offset, sizeof e) != sizeof e || e.inode)
            return false;
    return true;
}

/* A directory in which something may be made: it has not been removed, and has nothing of that name. */
static int load_for_adding(uint32_t number, struct inode *directory, const char *name)
{
    struct disk_entry e;
    int error = inode_load(number, directory);

    if (error)
        return error;
    if (directory->links == 0)
        return -E_NOTFOUND;
    int offset = find_entry(directory, name, &e);
    return offset >= 0 ? -E_EXISTS : offset == -E_NOTFOUND ? 0 : offset;
}

/* ---- operations ---- */

static int status(int file, struct file_status *status)
{
    struct inode inode;

    reading_begin();
    int error = inode_load(file, &inode);
    if (!error)
        *status = (struct file_status){inode.type, file, inode.links, inode.size};
    reading_end();
    return error;
}

static int find(int directory, const char *name)
{
    struct inode inode;
    struct disk_entry e;

    reading_begin();
    int result = inode_load(directory, &inode);
    if (!result && inode.type == TYPE_DIRECTORY && strcmp(name, ".") == 0)
        result = directory;
    else if (!result && (result = find_entry(&inode, name, &e)) >= 0)
        result = e.inode;
    reading_end();
    return result;
}

/* The position is an offset. */
static int entry(int directory, uint32_t *position, struct directory_entry *entry)
{
    struct inode inode;
    struct disk_entry e;

    reading_begin();
    int result = inode_load(directory, &inode);
    *position = *position < sizeof e ? sizeof e : *position - *position % sizeof e; /* not ".." */
    for (e.inode = 0; !result && !e.inode && *position < inode.size; *position += sizeof e) {
        result = read_inode(&inode, (char *)&e, *position, sizeof e);
        result = result < 0 ? result : 0;
    }
    reading_end();
    if (result || !e.inode)
        return result;
    entry->number = e.inode;
    memcpy(entry->name, e.name, sizeof entry->name);
    return 1;
}

static int read(int file, void *to, uint32_t offset, uint32_t size)
{
    struct inode inode;

    reading_begin();
    int result = inode_load(file, &inode);
    if (!result)
        result = inode.type == TYPE_FILE ? read_inode(&inode, to, offset, size) : -E_DIRECTORY;
    reading_end();
    return result;
}

/* In pieces, each an operation. */
static int write(int file, const void *from, uint32_t offset, uint32_t size)
{
    uint32_t done = 0;
    int result = 0;

    while (done < size && result >= 0) {
        struct inode inode;
        if ((result = operation_begin()) < 0)
            break;
        if ((result = inode_load(file, &inode)) == 0) {
            if (offset == AT_END)
                offset = inode.size;
            uint32_t at = offset + done, most = PIECE * BLOCK_SIZE - at % BLOCK_SIZE;
            uint32_t n = size - done < most ? size - done : most;
            result = write_inode(file, &inode, (const char *)from + done, at, n);
            if (result >= 0) {
                done += result;
                if (result < (int)n)
                    result = -E_NOSPACE;
            }
        }
        operation_end();
    }
    return done > 0 ? (int)done : result;
}

static int truncate(int file)
{
    struct inode inode;
    int result = operation_begin();

    if (result)
        return result;
    result = inode_load(file, &inode);
    if (!result && inode.size > 0) {
        empty(&inode);
        result = inode_store(file, &inode);
    }
    operation_end();
    return result;
}

static int create_in(uint32_t directory, struct inode *parent, const char *name, int type)
{
    int number = inode_allocate(type), error = number < 0 ? number : 0;
    struct inode inode;

    if (error)
        return error;
    error = inode_load(number, &inode);
    if (!error && type == TYPE_DIRECTORY)
        error = write_entry(number, &inode, 0, directory, "..");
    if (!error)
        error = add_entry(directory, parent, number, name);
    if (!error)
        return number;
    inode.links = 0;
    inode_free(number, &inode);
    return error;
}

static int create(int directory, const char *name, int type)
{
    struct inode parent;
    int result = operation_begin();

    if (result)
        return result;
    result = load_for_adding(directory, &parent, name);
    if (!result)
        result = create_in(directory, &parent, name, type);
    operation_end();
    return result;
}

/* Take a name away. The file itself goes when nobody has it open any more (unused()). */
static int remove_from(uint32_t directory, struct inode *parent, const char *name)
{
    struct disk_entry e;
    struct inode inode;
    int offset = find_entry(parent, name, &e);

    if (offset < 0)
        return offset;
    int error = inode_load(e.inode, &inode);
    if (error)
        return error;
    if (inode.type == TYPE_DIRECTORY && !directory_is_empty(&inode))
        return -E_NOTEMPTY;
    inode.links = 0;
    error = inode_store(e.inode, &inode);
    return error ? error : write_entry(directory, parent, offset, 0, "");
}

static int remove(int directory, const char *name)
{
    struct inode parent;
    int result = operation_begin();

    if (result)
        return result;
    result = inode_load(directory, &parent);
    if (!result)
        result = remove_from(directory, &parent, name);
    operation_end();
    return result;
}

/* Is `inner` the directory `outer`, or somewhere below it? */
static bool is_within(uint32_t inner, uint32_t outer)
{
    struct inode inode;
    struct disk_entry e;

    while (inner != outer && inner != ROOT_INODE) {
        if (inode_load(inner, &inode) < 0 || find_entry(&inode, "..", &e) < 0)
            return true;
        inner = e.inode;
    }
    return inner == outer;
}

static int move(int directory, const char *name, int to_directory, const char *to_name)
{
    struct inode parent, to_parent, inode;
    struct disk_entry e;
    int error = inode_load(directory, &parent);
    int offset = error ? error : find_entry(&parent, name, &e);

    if (offset < 0)
        return offset;
    uint32_t number = e.inode;
    if ((error = inode_load(number, &inode)) < 0)
        return error;
    if (inode.type == TYPE_DIRECTORY && is_within(to_directory, number))
        return -E_INVALID;
    if ((error = load_for_adding(to_directory, &to_parent, to_name)) < 0)
        return error;
    if ((error = add_entry(to_directory, &to_parent, number, to_name)) < 0)
        return error;
    if ((error = inode_load(directory, &parent)) < 0) /* it may have grown just now */
        return error;
    if (inode.type == TYPE_DIRECTORY)
        error = write_entry(number, &inode, 0, to_directory, "..");
    return error ? error : write_entry(directory, &parent, offset, 0, "");
}

static int rename(int directory, const char *name, int to_directory, const char *to_name)
{
    int result = operation_begin();

    if (result)
        return result;
    result = move(directory, name, to_directory, to_name);
    operation_end();
    return result;
}

/* Somebody may have opened the file again while we waited for the lock: then he will call us. */
static void unused(const struct node *node)
{
    struct inode inode;

    if (operation_begin() < 0)
        return;
    if (node->references == 1 && inode_load(node->number, &inode) == 0 && inode.links == 0)
        inode_free(node->number, &inode);
    operation_end();
}

const struct filesystem ternfs = {
    .name = "ternfs", .root = ROOT_INODE, .slow = true, .status = status, .find = find, .entry = entry,
    .read = read, .write = write, .truncate = truncate, .create = create, .remove = remove,
    .rename = rename, .unused = unused,
};

/* ---- mounting ---- */

/* Says what is wrong, or NULL. Everything that follows relies on these numbers. */
static const char *check_superblock(const struct superblock *s)
{
    uint32_t inode_blocks = (s->inodes + INODES_IN_BLOCK - 1) / INODES_IN_BLOCK;
    uint32_t bitmap_blocks = (s->blocks + BITS_IN_BLOCK - 1) / BITS_IN_BLOCK;

    if (memcmp(s->magic, TERNFS_MAGIC, sizeof TERNFS_MAGIC) != 0)
        return "no file system that tern knows";
    if (crc32(0, s, offsetof(struct superblock, checksum)) != s->checksum)
        return "the superblock is damaged";
    if (s->block_size != BLOCK_SIZE || s->blocks > MAX_BLOCKS || s->inodes < 2 || s->inodes > MAX_INODES)
        return "too large, or of another kind";
    if (s->blocks > disk.sectors / (BLOCK_SIZE / SECTOR_SIZE))
        return "the disk is smaller than the file system";
    if (s->log_start != SUPERBLOCK + 1 || s->log_blocks <= MAX_OPERATION + 1 || s->log_blocks > BLOCK_SIZE / 4 - 4 ||
        s->inode_start != s->log_start + s->log_blocks || s->bitmap_start != s->inode_start + inode_blocks ||
        s->data_start != s->bitmap_start + bitmap_blocks || s->data_start > s->blocks)
        return "the superblock makes no sense";
    return NULL;
}

/* Files that were removed while they were open, and then the machine stopped. */
static void free_orphans(uint32_t orphans)
{
    struct inode inode;

    for (uint32_t number = ROOT_INODE + 1; orphans > 0 && number < superblock.inodes; number++) {
        if (operation_begin() < 0)
            return;
        if (inode_load(number, &inode) == 0 && inode.type != TYPE_NONE && inode.links == 0) {
            inode_free(number, &inode);
            orphans--;
        }
        operation_end();
    }
}

static uint32_t count_free(void)
{
    uint32_t count = 0;
    struct buffer *bitmap = NULL;

    for (uint32_t block = 0; block < superblock.blocks; block++) {
        if (block % BITS_IN_BLOCK == 0)
            bitmap = bitmap_of(block);
        count += bitmap && !(bitmap->data[block % BITS_IN_BLOCK / 8] & 1 << block % 8);
    }
    return count;
}

static void flusher(void)
{
    for (;;) {
        sleep_ticks(1000 / TICK_MS);
        log_sync();
    }
}

static const char *mount(void)
{
    const char *wrong;
    struct buffer *b;
    uint32_t orphans = 0;

    if (cache_init() < 0)
        return "no memory";
    if (!(b = block_get(SUPERBLOCK)))
        return "the disk cannot be read";
    memcpy(&superblock, b->data, sizeof superblock);
    if ((wrong = check_superblock(&superblock)))
        return wrong;
    int replayed = log_open(&superblock);
    if (replayed < 0)
        return "the log cannot be read";
    if ((wrong = check(&orphans)))
        return wrong;
    free_blocks = count_free();
    free_orphans(orphans);
    if (!options.quiet)
        kprintf("disk: %u KiB, %u free; %d blocks from the log, %u files let go", superblock.blocks,
                free_blocks, replayed, orphans);
    return NULL;
}

void ternfs_mount(void)
{
    if (disk.sectors == 0)
        return;
    const char *wrong = mount();
    if (wrong) {
        kprintf("disk: not mounted: %s", wrong);
        return;
    }
    mounted = true;
    nodes_mount("disk", &ternfs);
    process_thread("flusher", flusher);
}

int ternfs_sync(void)
{
    return mounted ? log_sync() : 0;
}

void ternfs_usage(struct disk_usage *usage)
{
    *usage = (struct disk_usage){mounted, superblock.blocks, free_blocks, superblock.inodes, log_commits};
}
