/* Checks of descriptors, and of the files that are there without a disk. */
#include "selftest.h"

#define MOTD "/etc/motd"

CHECK(open_finds_files)
{
    char text[4];
    int file = open(MOTD, OPEN_READ);

    HOLDS(file >= 3 && read(file, text, 4) == 4 && memcmp(text, "This", 4) == 0);
    HOLDS(open("/nosuch", OPEN_READ) == -E_NOTFOUND);
    HOLDS(open("/nosuch/x", OPEN_READ) == -E_NOTFOUND);
    HOLDS(open("", OPEN_READ) == -E_NOTFOUND);
    HOLDS(open(MOTD "/x", OPEN_READ) == -E_NOTDIRECTORY);
    return NULL;
}

CHECK(paths_may_be_odd)
{
    static const char *const paths[] = {
        "//etc//motd", "/etc/../etc/./motd", "/../etc/motd", "/dev/../etc/motd", "/proc/.././etc/motd",
    };
    static char long_path[PATH_SIZE + 10];
    struct file_status s, expected;

    HOLDS(stat(MOTD, &expected) == 0);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        HOLDS(stat(paths[i], &s) == 0 && s.number == expected.number && s.size == expected.size);
    memset(long_path, 'a', sizeof long_path - 1);
    HOLDS(stat(long_path, &s) == -E_NOTFOUND);
    long_path[0] = '/';
    long_path[100] = 0;
    HOLDS(stat(long_path, &s) == -E_NOTFOUND);
    return NULL;
}

CHECK(read_ends_at_the_end)
{
    struct file_status s;
    char text[512];
    uint32_t total = 0;
    int file = open(MOTD, OPEN_READ), n;

    HOLDS(fstat(file, &s) == 0 && s.type == TYPE_FILE);
    while ((n = read(file, text, 7)) > 0)
        total += n;
    HOLDS(n == 0 && total == s.size);
    HOLDS(read(file, text, sizeof text) == 0 && read(file, text, 0) == 0);
    return NULL;
}

CHECK(seek_moves_the_offset)
{
    struct file_status s;
    char c;
    int file = open(MOTD, OPEN_READ);

    fstat(file, &s);
    HOLDS(seek(file, 5, SEEK_SET) == 5 && read(file, &c, 1) == 1 && c == 'i');
    HOLDS(seek(file, -6, SEEK_CURRENT) == 0 && read(file, &c, 1) == 1 && c == 'T');
    HOLDS(seek(file, -1, SEEK_END) == (int)s.size - 1 && read(file, &c, 1) == 1 && c == '\n');
    HOLDS(seek(file, 1000, SEEK_END) == (int)s.size + 1000 && read(file, &c, 1) == 0);
    HOLDS(seek(file, -1, SEEK_SET) == -E_INVALID && seek(file, 0, 9) == -E_INVALID);
    return NULL;
}

CHECK(directories_list_their_files)
{
    struct directory_entry e;
    struct file_status s;
    char path[PATH_SIZE];
    bool found = false;
    int directory = open("/bin", OPEN_READ);

    while (readdir(directory, &e) == 1) {
        snprintf(path, sizeof path, "/bin/%s", e.name);
        HOLDS(stat(path, &s) == 0 && s.number == e.number && s.type == TYPE_FILE && s.size > 0);
        found = found || strcmp(e.name, "sh") == 0;
    }
    HOLDS(found && readdir(directory, &e) == 0);
    HOLDS(readdir(open(MOTD, OPEN_READ), &e) == -E_NOTDIRECTORY);
    HOLDS(read(directory, path, 1) == -E_DIRECTORY);
    return NULL;
}

CHECK(archive_is_read_only)
{
    HOLDS(open(MOTD, OPEN_WRITE) == -E_READONLY);
    HOLDS(open(MOTD, OPEN_READ | OPEN_TRUNCATE) == -E_READONLY);
    HOLDS(open("/etc/new", OPEN_WRITE | OPEN_CREATE) == -E_READONLY);
    HOLDS(open("/etc", OPEN_WRITE) == -E_DIRECTORY);
    HOLDS(unlink(MOTD) == -E_READONLY && mkdir("/new") == -E_READONLY);
    HOLDS(rename(MOTD, "/etc/other") == -E_READONLY);
    HOLDS(unlink("/dev/null") == -E_READONLY && mkdir("/proc/x") == -E_READONLY);
    return NULL;
}

CHECK(descriptors_are_the_lowest_free)
{
    int a = open(MOTD, OPEN_READ), b = open(MOTD, OPEN_READ), c = open(MOTD, OPEN_READ);

    HOLDS(b == a + 1 && c == b + 1);
    HOLDS(close(b) == 0 && close(b) == -E_BADFILE);
    HOLDS(open(MOTD, OPEN_READ) == b);
    return NULL;
}

CHECK(descriptors_run_out)
{
    int file, count = 0, ends[2];

    while ((file = open(MOTD, OPEN_READ)) >= 0)
        HOLDS(++count <= MAX_FILES);
    HOLDS(file == -E_FILES && count == MAX_FILES - 3);
    HOLDS(pipe(ends) == -E_FILES && dup(0, -1) == -E_FILES);
    close(MAX_FILES - 1);
    HOLDS(pipe(ends) == -E_FILES);
    HOLDS(open(MOTD, OPEN_READ) == MAX_FILES - 1);
    return NULL;
}

CHECK(bad_descriptors_are_errors)
{
    static const int bad[] = {-1, 9, MAX_FILES, 0x7fffffff, -0x7fffffff - 1};
    struct directory_entry e;
    struct file_status s;
    char c = 0;

    for (int i = 0; i < 5; i++) {
        HOLDS(read(bad[i], &c, 1) == -E_BADFILE && write(bad[i], &c, 1) == -E_BADFILE);
        HOLDS(close(bad[i]) == -E_BADFILE && dup(bad[i], -1) == -E_BADFILE);
        HOLDS(seek(bad[i], 0, SEEK_SET) == -E_BADFILE && fstat(bad[i], &s) == -E_BADFILE);
        HOLDS(readdir(bad[i], &e) == -E_BADFILE);
    }
    HOLDS(dup(0, MAX_FILES) == -E_BADFILE && dup(0, -2) == -E_BADFILE);
    HOLDS(write(open(MOTD, OPEN_READ), &c, 1) == -E_BADFILE);
    HOLDS(read(open("/dev/null", OPEN_WRITE), &c, 1) == -E_BADFILE);
    return NULL;
}

CHECK(duplicates_share_the_offset)
{
    char c;
    int file = open(MOTD, OPEN_READ), other = dup(file, -1);

    HOLDS(read(file, &c, 1) == 1 && c == 'T' && read(other, &c, 1) == 1 && c == 'h');
    HOLDS(dup(file, 12) == 12 && read(12, &c, 1) == 1 && c == 'i');
    HOLDS(dup(file, file) == file && close(file) == 0 && close(other) == 0);
    HOLDS(read(12, &c, 1) == 1 && c == 's');
    return NULL;
}

CHECK(dup_replaces)
{
    char text[32];
    int ends[2], saved = dup(1, -1);

    HOLDS(pipe(ends) == 0 && dup(ends[1], 1) == 1);
    printf("into the pipe");
    HOLDS(dup(saved, 1) == 1 && close(ends[1]) == 0);
    int n = read(ends[0], text, sizeof text);
    HOLDS(n == 13 && memcmp(text, "into the pipe", 13) == 0);
    return NULL;
}

CHECK(children_share_the_offset)
{
    char c;
    int file = open(MOTD, OPEN_READ), pid = fork();

    if (pid == 0)
        exit(read(file, &c, 1));
    HOLDS(status_of(pid) == 1);
    HOLDS(read(file, &c, 1) == 1 && c == 'h');
    return NULL;
}

CHECK(chdir_is_where_paths_begin)
{
    struct file_status s;

    HOLDS(chdir("/etc") == 0 && stat("motd", &s) == 0 && stat("./motd", &s) == 0);
    HOLDS(chdir("../bin") == 0 && stat("motd", &s) == -E_NOTFOUND && stat("sh", &s) == 0);
    HOLDS(chdir("/proc") == 0 && stat("self", &s) == 0 && stat("../bin/sh", &s) == 0);
    HOLDS(chdir(MOTD) == -E_NOTDIRECTORY && chdir("/nosuch") == -E_NOTFOUND);
    HOLDS(stat("self", &s) == 0);
    return NULL;
}

CHECK(null_and_zero)
{
    char text[100];
    int null = open("/dev/null", OPEN_READ | OPEN_WRITE), zero = open("/dev/zero", OPEN_READ);

    memset(text, 1, sizeof text);
    HOLDS(write(null, text, sizeof text) == sizeof text && read(null, text, sizeof text) == 0);
    HOLDS(read(zero, text, sizeof text - 1) == sizeof text - 1);
    HOLDS(text[0] == 0 && text[98] == 0 && text[99] == 1);
    return NULL;
}

CHECK(proc_shows_processes)
{
    char text[200], expected[40];
    struct file_status s;
    int file = open("/proc/self", OPEN_READ), n = read(file, text, sizeof text - 1);

    HOLDS(n > 0);
    text[n] = 0;
    snprintf(expected, sizeof expected, "name: selftest\npid: %d\n", getpid());
    HOLDS(strncmp(text, expected, strlen(expected)) == 0);
    snprintf(expected, sizeof expected, "/proc/%d", getpid());
    HOLDS(stat(expected, &s) == 0);
    HOLDS(stat("/proc/0", &s) == -E_NOTFOUND && stat("/proc/99999", &s) == -E_NOTFOUND);
    HOLDS(stat("/proc/", &s) == 0 && s.type == TYPE_DIRECTORY);
    return NULL;
}

static int nothing(void) { return 0; }

CHECK(proc_forgets_the_dead)
{
    char path[40], text[10];
    int pid = child(nothing);

    snprintf(path, sizeof path, "/proc/%d", pid);
    int file = open(path, OPEN_READ);
    HOLDS(file >= 0 && status_of(pid) == 0);
    HOLDS(read(file, text, sizeof text) == -E_PROCESS);
    HOLDS(open(path, OPEN_READ) == -E_NOTFOUND);
    return NULL;
}

static int background_read(void)
{
    char c;

    setgroup(0, 0);
    return read(0, &c, 1) == -E_BACKGROUND || read(open("/dev/console", OPEN_READ), &c, 1) == -E_BACKGROUND;
}

CHECK(console_is_for_the_foreground)
{
    struct file_status s;

    HOLDS(stat("/dev/console", &s) == 0 && s.type == TYPE_DEVICE);
    HOLDS(status_of_child(background_read) == 1);
    return NULL;
}

CHECK(shell_runs_pipelines)
{
    char *const words[] = {"sh", "-c", "echo one two | cat | grep two > /dev/null; exit $?", NULL};
    char *const failing[] = {"sh", "-c", "echo one | grep two; exit $?", NULL};
    int pid = fork();

    if (pid == 0)
        exit(exec("sh", words));
    HOLDS(status_of(pid) == 0);
    if ((pid = fork()) == 0)
        exit(exec("sh", failing));
    HOLDS(status_of(pid) == 1);
    return NULL;
}
