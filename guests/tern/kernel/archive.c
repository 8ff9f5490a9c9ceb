/*
 * Reading order 22. The read-only files that come with the kernel: a ustar archive (POSIX.1-1988, 10.1.1)
 * linked into its image, and those among the multiboot modules that are such archives. They are laid
 * over each other: a later file replaces an earlier one of the same path. Nothing is copied.
 */
#include "kernel.h"

#define RECORD 512
#define MAX_ENTRIES 256

struct header {
    char name[100];
    char mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8];
    char type;
    char link[100];
    char magic[6];
    char rest[RECORD - 263];
};

struct entry {
    const char *name; /* in its directory; ends with NUL, '/' or after name_length */
    uint32_t name_length;
    uint32_t parent;
    bool directory;
    const char *data;
    uint32_t size;
};

/* Number 0 is the root. */
static struct entry entries[MAX_ENTRIES] = {{.directory = true}};
static uint32_t count = 1;

bool is_archive(const char *image, uint32_t size)
{
    return size >= RECORD && memcmp(((const struct header *)image)->magic, "ustar", 5) == 0;
}

static uint32_t octal(const char *digits, uint32_t length)
{
    uint32_t value = 0;

    for (; length > 0 && *digits >= '0' && *digits <= '7'; digits++, length--)
        value = value * 8 + *digits - '0';
    return value;
}

static struct entry *find(uint32_t directory, const char *name, uint32_t length)
{
    for (struct entry *e = entries + 1; e < entries + count; e++)
        if (e->parent == directory && e->name_length == length && memcmp(e->name, name, length) == 0)
            return e;
    return NULL;
}

/* The entry for a path, made if need be with all directories on the way; NULL if there is no room. */
static struct entry *make(const char *path, uint32_t length)
{
    struct entry *at = entries;

    while (length > 0) {
        uint32_t n = 0;
        while (n < length && path[n] != '/')
            n++;
        if (n > 0 && !(n == 1 && *path == '.')) {
            struct entry *next = find(at - entries, path, n);
            if (!next) {
                if (count == MAX_ENTRIES || n >= FILE_NAME_SIZE)
                    return NULL;
                next = &entries[count++];
                *next = (struct entry){path, n, at - entries, true, NULL, 0};
            }
            at = next;
        }
        path += n < length ? n + 1 : n;
        length -= n < length ? n + 1 : n;
    }
    return at;
}

static void add_archive(const char *image, uint32_t size)
{
    while (is_archive(image, size)) {
        const struct header *h = (const void *)image;
        uint32_t bytes = octal(h->size, sizeof h->size), length = 0;
        if (bytes > size - RECORD)
            break; /* the archive is cut off */
        while (length < sizeof h->name && h->name[length])
            length++;
        bool file = h->type == '0' || h->type == 0;
        struct entry *e = file || h->type == '5' ? make(h->name, length) : NULL;
        if (e && file && e != entries) {
            e->directory = false;
            e->data = image + RECORD;
            e->size = bytes;
        }
        uint32_t step = RECORD + (bytes + RECORD - 1) / RECORD * RECORD;
        if (step > size)
            break;
        image += step;
        size -= step;
    }
}

void archive_init(void)
{
    extern const char initrd[], initrd_end[];

    add_archive(initrd, initrd_end - initrd);
    for (int i = 0; i < bootinfo.modules; i++) {
        struct range r = bootinfo.module[i].range;
        if (r.end <= ram_end)
            add_archive(to_virtual(r.start), r.end - r.start);
    }
}

/* ---- as a file system ---- */

static int status(int file, struct file_status *status)
{
    const struct entry *e = &entries[file];

    *status = (struct file_status){e->directory ? TYPE_DIRECTORY : TYPE_FILE, file, 1, e->size};
    return 0;
}

static int find_number(int directory, const char *name)
{
    if (!entries[directory].directory)
        return -E_NOTDIRECTORY;
    if (strcmp(name, ".") == 0)
        return directory;
    if (strcmp(name, "..") == 0)
        return entries[directory].parent;
    struct entry *e = find(directory, name, strlen(name));
    return e ? e - entries : -E_NOTFOUND;
}

/* The position is the number of the entry to look at. */
static int next_entry(int directory, uint32_t *position, struct directory_entry *entry)
{
    for (uint32_t i = *position ? *position : 1; i < count; i++) {
        if (entries[i].parent != (uint32_t)directory)
            continue;
        entry->number = i;
        memcpy(entry->name, entries[i].name, entries[i].name_length);
        entry->name[entries[i].name_length] = 0;
        *position = i + 1;
        return 1;
    }
    return 0;
}

static int read(int file, void *to, uint32_t offset, uint32_t size)
{
    const struct entry *e = &entries[file];

    if (e->directory)
        return -E_DIRECTORY;
    if (offset >= e->size)
        return 0;
    uint32_t n = size < e->size - offset ? size : e->size - offset;
    memcpy(to, e->data + offset, n);
    return n;
}

const struct filesystem archive_fs = {
    .name = "archive", .root = 0, .status = status, .find = find_number, .entry = next_entry, .read = read,
};
