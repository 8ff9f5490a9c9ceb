/*
 * churn [ROUNDS]: work for the disk, in its root directory. Round N makes a file "new", writes it, renames
 * it to rN, removes r(N-5), appends "N" and a newline to the file "rounds", makes a file "new" with the
 * same and gives it the name of the file "last", and tells "synced N" when all of that is safe. The contents
 * of rN are words made from N, so whoever looks at the disk later knows what must be there. Goes on where it
 * stopped.
 */
#include "user.h"

#define KEPT 5

static uint32_t words[3000];

/* Words made from the number of the round. Returns the size in bytes. */
static int make_contents(uint32_t round)
{
    uint32_t x = round * 2654435761u + 1, n = 100 + round * 377 % 2900;

    for (uint32_t i = 0; i < n; i++)
        words[i] = x = xorshift(x);
    return n * 4;
}

/* Write a file in pieces of odd size. Returns 0, or 1 having complained; so does replace(). */
static int store(const char *path, int flags, const char *data, int size)
{
    int file = open(path, OPEN_WRITE | OPEN_CREATE | flags), n = file < 0 ? file : 0;

    for (int done = 0; n >= 0 && done < size; done += n)
        n = write(file, data + done, size - done < 1999 ? size - done : 1999);
    close(file);
    return n < 0 ? fail("churn", path, n) : 0;
}

/* Write "new", and rename it to `path`, which may be there. */
static int replace(const char *path, const char *data, int size)
{
    int error = store("/disk/new", OPEN_TRUNCATE, data, size);

    if (!error && (error = rename("/disk/new", path)) < 0)
        error = fail("churn", path, error);
    return error;
}

static int do_round(uint32_t round)
{
    char name[32], line[16];
    int length = snprintf(line, sizeof line, "%u\n", round), error;

    snprintf(name, sizeof name, "/disk/r%u", round);
    error = replace(name, (char *)words, make_contents(round));
    if (!error && round > KEPT) {
        snprintf(name, sizeof name, "/disk/r%u", round - KEPT);
        unlink(name);
    }
    if (error || store("/disk/rounds", OPEN_APPEND, line, length) || replace("/disk/last", line, length))
        return 1;
    if ((error = sync()) < 0)
        return fail("churn", "sync", error);
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
