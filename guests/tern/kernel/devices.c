/* Reading order 25. Devices as files, in /dev. */
#include "kernel.h"

enum { ROOT, CONSOLE, NULL_DEVICE, ZERO, DEVICES };

static const char *const names[] = {[CONSOLE] = "console", [NULL_DEVICE] = "null", [ZERO] = "zero"};

static int status(int file, struct file_status *status)
{
    *status = (struct file_status){file == ROOT ? TYPE_DIRECTORY : TYPE_DEVICE, file, 1, 0};
    return 0;
}

static int find(int directory, const char *name)
{
    if (directory != ROOT)
        return -E_NOTDIRECTORY;
    if (strcmp(name, ".") == 0)
        return ROOT;
    for (int i = ROOT + 1; i < DEVICES; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -E_NOTFOUND;
}

static int entry(int directory, uint32_t *position, struct directory_entry *entry)
{
    uint32_t next = *position + 1;

    if (next >= DEVICES)
        return 0;
    entry->number = *position = next;
    strlcpy(entry->name, names[next], sizeof entry->name);
    return 1;
}

static int read(int file, void *to, uint32_t offset, uint32_t size)
{
    switch (file) {
    case CONSOLE:
        return console_read(to, size);
    case NULL_DEVICE:
        return 0;
    case ZERO:
        memset(to, 0, size);
        return size;
    }
    return -E_DIRECTORY;
}

static int write(int file, const void *from, uint32_t offset, uint32_t size)
{
    return file == CONSOLE ? console_write(from, size) : (int)size;
}

const struct filesystem devices_fs = {
    .name = "devices", .root = ROOT, .status = status, .find = find, .entry = entry, .read = read, .write = write,
};
