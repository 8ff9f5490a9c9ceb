/* Checks of pipes. */
#include "selftest.h"

#define LOTS 50000

static int ends[2];

CHECK(pipe_keeps_order)
{
    char text[8] = "";

    HOLDS(pipe(ends) == 0);
    HOLDS(write(ends[1], "abc", 3) == 3 && write(ends[1], "def", 3) == 3);
    HOLDS(read(ends[0], text, 2) == 2 && read(ends[0], text + 2, 6) == 4);
    HOLDS(strcmp(text, "abcdef") == 0);
    return NULL;
}

/* More than it holds, in pieces that do not divide its size. */
static int write_lots(void)
{
    char piece[777];

    close(ends[0]);
    for (int done = 0; done < LOTS;) {
        int n = LOTS - done < (int)sizeof piece ? LOTS - done : (int)sizeof piece;
        for (int i = 0; i < n; i++)
            piece[i] = (done + i) * 7;
        if (write(ends[1], piece, n) != n)
            return 1;
        done += n;
    }
    return 0;
}

CHECK(pipe_blocks_and_loses_nothing)
{
    char piece[1001];
    int done = 0, n;

    HOLDS(pipe(ends) == 0);
    int pid = child(write_lots);
    close(ends[1]);
    while ((n = read(ends[0], piece, sizeof piece)) > 0)
        for (int i = 0; i < n; i++, done++)
            HOLDS(piece[i] == (char)(done * 7));
    HOLDS(n == 0 && done == LOTS && status_of(pid) == 0);
    return NULL;
}

CHECK(pipe_ends_when_writers_are_gone)
{
    char c;

    HOLDS(pipe(ends) == 0);
    HOLDS(write(ends[1], "x", 1) == 1);
    int other = dup(ends[1], -1);
    close(ends[1]);
    HOLDS(write(other, "y", 1) == 1);
    close(other);
    HOLDS(read(ends[0], &c, 1) == 1 && c == 'x');
    HOLDS(read(ends[0], &c, 1) == 1 && c == 'y');
    HOLDS(read(ends[0], &c, 1) == 0);
    return NULL;
}

CHECK(pipe_without_readers_refuses)
{
    HOLDS(pipe(ends) == 0);
    close(ends[0]);
    HOLDS(write(ends[1], "x", 1) == -E_PIPE);
    return NULL;
}

CHECK(pipe_ends_have_directions)
{
    char c;

    HOLDS(pipe(ends) == 0);
    HOLDS(write(ends[0], "x", 1) == -E_BADFILE && read(ends[1], &c, 1) == -E_BADFILE);
    HOLDS(seek(ends[0], 0, SEEK_SET) == -E_BADFILE);
    return NULL;
}

static int fill(void) { for (;;) write(ends[1], "full", 4); return 0; }
static int drain(void) { char c; return read(ends[0], &c, 1); }

CHECK(kill_who_waits_for_a_pipe)
{
    HOLDS(pipe(ends) == 0);
    int writer = child(fill);
    sleep(30);
    kill(writer);
    HOLDS(status_of(writer) == STATUS_KILLED);
    HOLDS(pipe(ends) == 0);
    int reader = child(drain);
    sleep(30);
    kill(reader);
    HOLDS(status_of(reader) == STATUS_KILLED);
    return NULL;
}

static int write_letters(void)
{
    for (int i = 0; i < 500; i++)
        if (write(ends[1], "abcdefgh", 8) != 8)
            return 1;
    return 0;
}

/* What one write() puts in comes out in one piece, if it fits. */
CHECK(pipe_with_many_writers)
{
    int pids[4], n, total = 0;
    char text[8];

    HOLDS(pipe(ends) == 0);
    for (int i = 0; i < 4; i++)
        pids[i] = child(write_letters);
    close(ends[1]);
    while ((n = read(ends[0], text, 8)) == 8) {
        HOLDS(memcmp(text, "abcdefgh", 8) == 0);
        total += n;
    }
    HOLDS(n == 0 && total == 4 * 500 * 8);
    for (int i = 0; i < 4; i++)
        HOLDS(status_of(pids[i]) == 0);
    return NULL;
}

/* Back and forth between two processes. */
CHECK(ping_pong)
{
    int back[2];
    uint32_t number = 0;

    HOLDS(pipe(ends) == 0 && pipe(back) == 0);
    int pid = fork();
    if (pid == 0) {
        close(ends[1]);
        while (read(ends[0], &number, 4) == 4) {
            number++;
            write(back[1], &number, 4);
        }
        exit(0);
    }
    close(ends[0]);
    for (uint32_t i = 0; i < 300; i++) {
        HOLDS(write(ends[1], &number, 4) == 4 && read(back[0], &number, 4) == 4);
        HOLDS(number == i + 1);
    }
    close(ends[1]);
    HOLDS(status_of(pid) == 0);
    return NULL;
}
