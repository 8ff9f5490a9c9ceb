/*
 * selftest [NAME ...]: check what README.md promises, all of it or what has these names (or names that
 * begin so). After each check as much memory must be in use, and as many files open, as before it.
 * The last line is ALL TESTS PASSED, or how many failed.
 */
#include "selftest.h"

extern const struct check checks[], checks_end[]; /* user.ld */

static char name[64]; /* of the check that is made */

enum { PASSED, FAILED, LEFT_OUT };

int child(int (*run)(void))
{
    int pid = fork();

    if (pid == 0)
        exit(run());
    return pid;
}

int status_of(int pid)
{
    int status = -1;

    return pid > 0 && wait(pid, &status, 0) == pid ? status : -1;
}

/* What must be the same before and after: frames in use, and the kernel's tables of files. */
struct resources {
    uint32_t used;
    char files[64];
};

static void measure(struct resources *r)
{
    struct memory_info m;
    int file = open("/proc/files", OPEN_READ);

    memset(r, 0, sizeof *r);
    read(file, r->files, sizeof r->files - 1);
    close(file);
    memory_info(&m);
    r->used = m.used;
}

/* In the child: run it, and say how it went. */
static int perform(const struct check *c)
{
    const char *wrong = c->run();

    if (!wrong) {
        printf("%s: ok\n", name);
        return PASSED;
    }
    bool skipped = strncmp(wrong, SKIPPED, strlen(SKIPPED)) == 0;
    printf("%s: %s%s\n", name, skipped ? "" : "FAILED: ", wrong);
    return skipped ? LEFT_OUT : FAILED;
}

static int run(const struct check *c)
{
    struct resources before, after;

    measure(&before);
    int pid = fork();
    if (pid == 0)
        exit(perform(c));
    int status = status_of(pid);
    measure(&after);
    if (status != PASSED && status != FAILED && status != LEFT_OUT) {
        printf("%s: FAILED: ended with status %x\n", name, status);
        return FAILED;
    }
    if (memcmp(&before, &after, sizeof before) != 0) {
        printf("%s: FAILED: left behind %d frames; files were %sand are %s", name,
               after.used - before.used, before.files, after.files);
        return FAILED;
    }
    return status;
}

static void make_name(const char *function)
{
    strlcpy(name, function, sizeof name);
    for (char *at = name; *at; at++)
        if (*at == '_')
            *at = '-';
}

static bool wanted(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strncmp(name, argv[i], strlen(argv[i])) == 0)
            return true;
    return argc == 1;
}

int main(int argc, char **argv)
{
    int counts[] = {0, 0, 0};

    /* process_checks run us with these words. */
    if (argc > 1 && strcmp(argv[1], "--arguments") == 0)
        return argc == 4 && strcmp(argv[2], "") == 0 && strcmp(argv[3], "two words") == 0 && !argv[4] ? 42 : 1;
    if (argc > 1 && strcmp(argv[1], "--write") == 0)
        return write(number_or(argv[2], 0), "x", 1) == 1 ? 42 : 1;
    for (const struct check *c = checks; c < checks_end; c++) {
        make_name(c->name);
        if (wanted(argc, argv))
            counts[run(c)]++;
    }
    printf("%d passed, %d failed, %d skipped\n", counts[PASSED], counts[FAILED], counts[LEFT_OUT]);
    if (counts[FAILED] == 0)
        printf("ALL TESTS PASSED\n");
    return counts[FAILED] != 0;
}
