/* Checks of the file system on the disk, in a directory of their own. */
#include "selftest.h"

#define PLACE "/disk/selftest"

static bool has_disk(void)
{
    struct file_status s;

    return stat("/disk/..", &s) == 0 && stat("/disk", &s) == 0 && s.size > 0;
}

#define NEEDS_DISK        \
    if (!has_disk())      \
        return NO_DISK;   \
    mkdir(PLACE)

static uint8_t pattern(uint32_t offset) { return offset * 31 + (offset >> 8) * 7 + 1; }

/* Writes [from, to) of the pattern, in pieces of so many bytes. */
static bool fill(int file, uint32_t from, uint32_t to, uint32_t piece)
{
    static uint8_t buffer[4096];

    for (uint32_t at = from; at < to; at += piece) {
        uint32_t n = to - at < piece ? to - at : piece;
        for (uint32_t i = 0; i < n; i++)
            buffer[i] = pattern(at + i);
        if (write(file, buffer, n) != (int)n)
            return false;
    }
    return true;
}

static bool verify(int file, uint32_t size, uint32_t piece)
{
    static uint8_t buffer[4096];
    uint32_t at = 0;
    int n;

    while ((n = read(file, buffer, piece)) > 0)
        for (int i = 0; i < n; i++, at++)
            if (buffer[i] != pattern(at))
                return false;
    return n == 0 && at == size;
}

static int create(const char *path) { return open(path, OPEN_READ | OPEN_WRITE | OPEN_CREATE | OPEN_TRUNCATE); }

CHECK(disk_files_keep_what_is_written)
{
    struct file_status s;

    NEEDS_DISK;
    int file = create(PLACE "/a");
    HOLDS(file >= 0 && fill(file, 0, 10000, 777));
    HOLDS(seek(file, 0, SEEK_SET) == 0 && verify(file, 10000, 1000));
    close(file);
    HOLDS(stat(PLACE "/a", &s) == 0 && s.type == TYPE_FILE && s.size == 10000 && s.links == 1);
    file = open(PLACE "/a", OPEN_READ);
    HOLDS(verify(file, 10000, 4096));
    HOLDS(unlink(PLACE "/a") == 0 && stat(PLACE "/a", &s) == -E_NOTFOUND);
    return NULL;
}

CHECK(disk_append_and_truncate)
{
    struct file_status s;

    NEEDS_DISK;
    int file = create(PLACE "/a");
    HOLDS(write(file, "one", 3) == 3);
    int other = open(PLACE "/a", OPEN_WRITE | OPEN_APPEND);
    HOLDS(write(other, "two", 3) == 3 && fstat(file, &s) == 0 && s.size == 6);
    HOLDS(write(file, "x", 1) == 1 && write(other, "y", 1) == 1 && fstat(file, &s) == 0 && s.size == 7);
    HOLDS(create(PLACE "/a") >= 0 && fstat(file, &s) == 0 && s.size == 0);
    HOLDS(unlink(PLACE "/a") == 0);
    return NULL;
}

CHECK(disk_overwrite_in_place)
{
    char text[8] = "";

    NEEDS_DISK;
    int file = create(PLACE "/a");
    HOLDS(fill(file, 0, 3000, 3000) && seek(file, 1022, SEEK_SET) == 1022 && write(file, "abcd", 4) == 4);
    HOLDS(seek(file, 1021, SEEK_SET) == 1021 && read(file, text, 6) == 6);
    HOLDS((uint8_t)text[0] == pattern(1021) && memcmp(text + 1, "abcd", 4) == 0);
    HOLDS((uint8_t)text[5] == pattern(1026));
    HOLDS(unlink(PLACE "/a") == 0);
    return NULL;
}

/* Large enough for indirect and doubly indirect blocks. */
CHECK(disk_large_files)
{
    struct file_status s;

    NEEDS_DISK;
    int file = create(PLACE "/large");
    HOLDS(fill(file, 0, 320000, 4096));
    HOLDS(seek(file, 0, SEEK_SET) == 0 && verify(file, 320000, 4096));
    HOLDS(fstat(file, &s) == 0 && s.size == 320000);
    HOLDS(unlink(PLACE "/large") == 0);
    return NULL;
}

CHECK(disk_holes_are_zeros)
{
    char text[10];

    NEEDS_DISK;
    int file = create(PLACE "/hole");
    HOLDS(seek(file, 50000, SEEK_SET) == 50000 && write(file, "end", 3) == 3);
    HOLDS(seek(file, 49995, SEEK_SET) == 49995 && read(file, text, 10) == 8);
    HOLDS(memcmp(text, "\0\0\0\0\0end", 8) == 0);
    HOLDS(seek(file, 20000, SEEK_SET) == 20000 && read(file, text, 2) == 2 && !text[0] && !text[1]);
    HOLDS(unlink(PLACE "/hole") == 0);
    return NULL;
}

CHECK(disk_directories)
{
    struct file_status s, up;

    NEEDS_DISK;
    HOLDS(mkdir(PLACE "/d") == 0 && mkdir(PLACE "/d") == -E_EXISTS && mkdir(PLACE "/d/e") == 0);
    HOLDS(stat(PLACE "/d", &s) == 0 && s.type == TYPE_DIRECTORY);
    HOLDS(stat(PLACE "/d/e/../..", &up) == 0 && stat(PLACE, &s) == 0 && up.number == s.number);
    HOLDS(unlink(PLACE "/d") == -E_NOTEMPTY);
    HOLDS(chdir(PLACE "/d/e") == 0 && create("f") >= 0 && stat(PLACE "/d/e/f", &s) == 0);
    HOLDS(unlink("f") == 0 && unlink(PLACE "/d/e") == 0);
    HOLDS(create("g") < 0); /* the directory that we are in has gone */
    HOLDS(unlink(PLACE "/d") == 0 && unlink(PLACE "/d") == -E_NOTFOUND);
    HOLDS(open(PLACE, OPEN_WRITE) == -E_DIRECTORY);
    return NULL;
}

CHECK(disk_many_files)
{
    struct directory_entry e;
    char path[PATH_SIZE];
    uint32_t seen = 0;

    NEEDS_DISK;
    HOLDS(mkdir(PLACE "/many") == 0);
    for (int i = 0; i < 40; i++) {
        snprintf(path, sizeof path, PLACE "/many/file%d", i);
        int file = create(path);
        HOLDS(file >= 0 && write(file, path, strlen(path)) > 0 && close(file) == 0);
    }
    int directory = open(PLACE "/many", OPEN_READ);
    while (readdir(directory, &e) == 1)
        seen += strncmp(e.name, "file", 4) == 0;
    HOLDS(seen == 40);
    for (int i = 0; i < 40; i++) {
        snprintf(path, sizeof path, PLACE "/many/file%d", i);
        HOLDS(unlink(path) == 0);
    }
    close(directory);
    HOLDS(unlink(PLACE "/many") == 0);
    return NULL;
}

CHECK(disk_removed_files_live_while_open)
{
    struct file_status s;

    NEEDS_DISK;
    int file = create(PLACE "/a");
    HOLDS(unlink(PLACE "/a") == 0 && stat(PLACE "/a", &s) == -E_NOTFOUND);
    HOLDS(fill(file, 0, 5000, 1000) && seek(file, 0, SEEK_SET) == 0 && verify(file, 5000, 4096));
    HOLDS(fstat(file, &s) == 0 && s.links == 0);
    int other = create(PLACE "/a"); /* another file of that name */
    HOLDS(fstat(other, &s) == 0 && s.size == 0);
    HOLDS(unlink(PLACE "/a") == 0);
    return NULL;
}

CHECK(disk_rename)
{
    struct file_status s, moved;

    NEEDS_DISK;
    HOLDS(close(create(PLACE "/a")) == 0 && stat(PLACE "/a", &s) == 0 && mkdir(PLACE "/d") == 0);
    HOLDS(rename(PLACE "/a", PLACE "/d/b") == 0 && stat(PLACE "/a", &moved) == -E_NOTFOUND);
    HOLDS(stat(PLACE "/d/b", &moved) == 0 && moved.number == s.number);
    HOLDS(mkdir(PLACE "/e") == 0 && rename(PLACE "/e", PLACE "/d/e") == 0);
    HOLDS(stat(PLACE "/d/e/../b", &moved) == 0 && moved.number == s.number);
    HOLDS(rename(PLACE "/d", PLACE "/d/e/d") == -E_INVALID); /* into itself */
    HOLDS(rename(PLACE "/x", PLACE "/y") == -E_NOTFOUND && rename(PLACE "/d/b", PLACE "/d/..") == -E_EXISTS);
    HOLDS(rename(PLACE "/d/b", "/etc/b") == -E_READONLY);
    HOLDS(unlink(PLACE "/d/b") == 0 && unlink(PLACE "/d/e") == 0 && unlink(PLACE "/d") == 0);
    return NULL;
}

CHECK(disk_rename_replaces_files)
{
    struct file_status s, moved;
    char text[4];

    NEEDS_DISK;
    int old = create(PLACE "/a"), new = create(PLACE "/b");
    HOLDS(fill(old, 0, 20000, 4096) && write(new, "new", 3) == 3 && fstat(new, &s) == 0);
    HOLDS(rename(PLACE "/b", PLACE "/a") == 0 && stat(PLACE "/b", &moved) == -E_NOTFOUND);
    HOLDS(stat(PLACE "/a", &moved) == 0 && moved.number == s.number && moved.links == 1 && moved.size == 3);
    HOLDS(rename(PLACE "/a", PLACE "/a") == 0 && read(open(PLACE "/a", OPEN_READ), text, 4) == 3);
    /* Who has the old one open keeps it. */
    HOLDS(fstat(old, &s) == 0 && s.links == 0 && seek(old, 0, SEEK_SET) == 0 && verify(old, 20000, 4096));
    HOLDS(unlink(PLACE "/a") == 0);
    return NULL;
}

CHECK(disk_rename_replaces_empty_directories)
{
    struct file_status s, up;

    NEEDS_DISK;
    HOLDS(mkdir(PLACE "/d") == 0 && mkdir(PLACE "/e") == 0 && close(create(PLACE "/e/f")) == 0);
    HOLDS(rename(PLACE "/d", PLACE "/e") == -E_NOTEMPTY && rename(PLACE "/e/f", PLACE "/e") == -E_DIRECTORY);
    HOLDS(rename(PLACE "/d", PLACE "/e/f") == -E_NOTDIRECTORY && rename(PLACE "/e", PLACE "/d") == 0);
    HOLDS(stat(PLACE "/e", &s) == -E_NOTFOUND && stat(PLACE "/d/f", &s) == 0 && s.type == TYPE_FILE);
    HOLDS(stat(PLACE "/d/..", &up) == 0 && stat(PLACE, &s) == 0 && up.number == s.number);
    HOLDS(unlink(PLACE "/d/f") == 0 && unlink(PLACE "/d") == 0);
    return NULL;
}

/* Several processes at once, each in a file of its own. */
CHECK(disk_many_writers)
{
    int pids[4];
    char path[PATH_SIZE];

    NEEDS_DISK;
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, PLACE "/w%d", i);
        if ((pids[i] = fork()) > 0)
            continue;
        int file = create(path);
        bool good = fill(file, 0, 12000, 500 + 100 * i) && seek(file, 0, SEEK_SET) == 0 && verify(file, 12000, 999);
        exit(!good);
    }
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, PLACE "/w%d", i);
        HOLDS(status_of(pids[i]) == 0);
        HOLDS(unlink(path) == 0);
    }
    return NULL;
}

CHECK(disk_programs_run)
{
    char *const words[] = {"sh", "-c", "cp /bin/echo " PLACE "/e; " PLACE "/e > " PLACE "/out; rm " PLACE "/e; exit $?", NULL};
    struct file_status s;

    NEEDS_DISK;
    int pid = fork();
    if (pid == 0)
        exit(exec("sh", words));
    HOLDS(status_of(pid) == 0);
    HOLDS(stat(PLACE "/out", &s) == 0 && s.size == 1);
    HOLDS(unlink(PLACE "/out") == 0);
    return NULL;
}

CHECK(disk_sync)
{
    NEEDS_DISK;
    int file = create(PLACE "/a");
    HOLDS(fill(file, 0, 2000, 2000) && sync() == 0 && sync() == 0);
    HOLDS(unlink(PLACE "/a") == 0 && sync() == 0);
    return NULL;
}

CHECK(disk_leaves_nothing)
{
    NEEDS_DISK;
    HOLDS(unlink(PLACE) == 0);
    HOLDS(sync() == 0);
    return NULL;
}
