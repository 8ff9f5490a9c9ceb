/*
 * churn [ROUNDS]: work for the disk, in its root directory. Round N makes a file "new", writes it, renames
 * it to rN, removes r(N-5), appends "N" and a newline to the file "rounds", and tells "synced N" when all
 * of that is safe. The contents of rN are words made from N, so whoever looks at the disk later knows what
 * must be there. Goes on where it stopped.
 */
#include "user.h"

#define KEPT 5

static uint32_t words[3000];

static int fail(const char *what, int error)
{
    complain("churn: %s: %s\n", what, error_text(error));
    return 1;
}

/* Marsaglia's xorshift (sum.c), from the number of the round. Returns the size in bytes. */
static int make_contents(uint32_t round)
{
    uint32_t x = round * 2654435761u + 1, n = 100 + round * 377 % 2900;

    for (uint32_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        words[i] = x;
    }
    return n * 4;
}

static int do_round(uint32_t round)
{
    char name[32], line[16];
    int size = make_contents(round), error = 0;
    int file = open("/disk/new", OPEN_WRITE | OPEN_CREATE | OPEN_TRUNCATE);

    if (file < 0)
        return fail("/disk/new", file);
    for (int done = 0; done < size; done += error) /* in pieces of odd size */
        if ((error = write(file, (char *)words + done, size - done < 1999 ? size - done : 1999)) <= 0)
            return fail("/disk/new", error);
    close(file);
    snprintf(name, sizeof name, "/disk/r%u", round);
    unlink(name); /* it may be there already, if we were stopped before the round was entered in "rounds" */
    if ((error = rename("/disk/new", name)) < 0)
        return fail(name, error);
    if (round > KEPT) {
        snprintf(name, sizeof name, "/disk/r%u", round - KEPT);
        unlink(name);
    }
    file = open("/disk/rounds", OPEN_WRITE | OPEN_CREATE | OPEN_APPEND);
    if ((error = write(file, line, snprintf(line, sizeof line, "%u\n", round))) < 0)
        return fail("/disk/rounds", error);
    close(file);
    if ((error = sync()) < 0)
        return fail("sync", error);
    printf("synced %u\n", round);
    return 0;
}

/* The last line of "rounds". */
static uint32_t last_round(void)
{
    struct reader reader = {.file = open("/disk/rounds", OPEN_READ)};
    char line[16] = "";
    uint32_t last = 0;
    int n;

    while ((n = read_line(&reader, line, sizeof line)) > 1) {
        line[n - 1] = 0;
        last = number_or(line, 0);
    }
    close(reader.file);
    return last;
}

int main(int argc, char **argv)
{
    uint32_t rounds = argc > 1 ? number_or(argv[1], 10) : 10, first = last_round() + 1;

    for (uint32_t round = first; round < first + rounds; round++)
        if (do_round(round) != 0)
            return 1;
    return 0;
}
