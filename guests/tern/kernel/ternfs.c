/*
 * Reading order 33. The file system on the disk (ternfs.h): its directories, and what the outside may ask.
 *
 * Every function that the outside calls is one operation, or several small ones (write), between
 * operation_begin() and operation_end(): the log makes each of them happen as a whole or not at all. There
 * is one lock for all of it: a read waits for a write, and a write for a commit.
 */
#include "ternfs.h"

struct superblock superblock;

static bool mounted;

/* ---- directories. Must hold, up to the operations: an operation has begun ---- */

/* The entry of that name, or the first free place if name is NULL. Returns its offset, or an error. */
static int find_entry(struct inode *directory, const char *name, struct disk_entry *e)
{
    uint32_t offset = 0;

    if (directory->type != TYPE_DIRECTORY)
        return -E_NOTDIRECTORY;
    for (; offset < directory->size; offset += sizeof *e) {
        int n = inode_read(directory, (char *)e, offset, sizeof *e);
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
    int n = inode_write(number, directory, (const char *)&e, offset, sizeof e);
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
        if (inode_read(directory, (char *)&e, offset, sizeof e) != sizeof e || e.inode)
            return false;
    return true;
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
        result = inode_read(&inode, (char *)&e, *position, sizeof e);
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
        result = inode.type == TYPE_FILE ? inode_read(&inode, to, offset, size) : -E_DIRECTORY;
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
            result = inode_write(file, &inode, (const char *)from + done, at, n);
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
        inode_empty(&inode);
        result = inode_store(file, &inode);
    }
    operation_end();
    return result;
}

static int create_in(uint32_t directory, const char *name, int type)
{
    struct inode parent, inode;
    struct disk_entry e;
    int error = inode_load(directory, &parent);

    if (error || parent.links == 0)
        return error ? error : -E_NOTFOUND;
    int offset = find_entry(&parent, name, &e);
    if (offset != -E_NOTFOUND)
        return offset < 0 ? offset : -E_EXISTS;
    int number = inode_allocate(type);
    if (number < 0 || (error = inode_load(number, &inode)) < 0)
        return number < 0 ? number : error;
    if (type == TYPE_DIRECTORY)
        error = write_entry(number, &inode, 0, directory, "..");
    if (!error)
        error = add_entry(directory, &parent, number, name);
    if (!error)
        return number;
    inode.links = 0;
    inode_free(number, &inode);
    return error;
}

static int create(int directory, const char *name, int type)
{
    int result = operation_begin();

    if (result)
        return result;
    result = create_in(directory, name, type);
    operation_end();
    return result;
}

/*
 * A file is about to lose its name; itself it goes when nobody has it open any more (unused()). If that is
 * because another takes the name, `taker` is the other's type: a file gives way to a file, a directory to a
 * directory. TYPE_NONE: the name is just removed.
 */
static int drop_link(uint32_t number, uint32_t taker)
{
    struct inode inode;
    int error = inode_load(number, &inode);

    if (error)
        return error;
    if (taker != TYPE_NONE && taker != inode.type)
        return inode.type == TYPE_DIRECTORY ? -E_DIRECTORY : -E_NOTDIRECTORY;
    if (inode.type == TYPE_DIRECTORY && !directory_is_empty(&inode))
        return -E_NOTEMPTY;
    inode.links = 0;
    return inode_store(number, &inode);
}

static int remove_from(uint32_t directory, struct inode *parent, const char *name)
{
    struct disk_entry e;
    int offset = find_entry(parent, name, &e);
    int error = offset < 0 ? offset : drop_link(e.inode, TYPE_NONE);

    if (!error)
        error = write_entry(directory, parent, offset, 0, "");
    return error ? error : (int)e.inode;
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

/* Give the name in a directory to an inode, whoever had it before. Returns who had: 0 if nobody, or an error. */
static int take_name(uint32_t directory, const char *name, uint32_t number, uint32_t type)
{
    struct inode parent;
    struct disk_entry e = {0};
    int error = inode_load(directory, &parent);

    if (error || parent.links == 0)
        return error ? error : -E_NOTFOUND;
    int offset = find_entry(&parent, name, &e);
    if (offset == -E_NOTFOUND)
        return add_entry(directory, &parent, number, name);
    error = offset < 0 ? offset : drop_link(e.inode, type);
    if (!error)
        error = write_entry(directory, &parent, offset, number, name);
    return error ? error : (int)e.inode;
}

static int move(int directory, const char *name, int to_directory, const char *to_name)
{
    struct inode parent, inode;
    struct disk_entry e;
    int error = inode_load(directory, &parent);
    int offset = error ? error : find_entry(&parent, name, &e);

    if (offset < 0)
        return offset;
    uint32_t number = e.inode;
    if (directory == to_directory && strcmp(name, to_name) == 0)
        return 0;
    if ((error = inode_load(number, &inode)) < 0)
        return error;
    if (inode.type == TYPE_DIRECTORY && is_within(to_directory, number))
        return -E_INVALID;
    int replaced = take_name(to_directory, to_name, number, inode.type);
    if (replaced < 0 || (error = inode_load(directory, &parent)) < 0) /* it may have grown just now */
        return replaced < 0 ? replaced : error;
    if (inode.type == TYPE_DIRECTORY)
        error = write_entry(number, &inode, 0, to_directory, "..");
    if (!error)
        error = write_entry(directory, &parent, offset, 0, "");
    return error ? error : replaced;
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
    blocks_count();
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
