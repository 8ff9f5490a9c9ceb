/* Checks of time. */
#include "selftest.h"

CHECK(time_goes_forward)
{
    uint32_t before = uptime();

    for (int i = 0; i < 1000; i++) {
        uint32_t now = uptime();
        HOLDS(now >= before);
        before = now;
    }
    return NULL;
}

CHECK(sleep_is_long_enough)
{
    for (uint32_t ms = 0; ms <= 100; ms += 25) {
        uint32_t start = uptime();
        HOLDS(sleep(ms) == 0);
        HOLDS(uptime() - start >= ms && uptime() - start < ms + 1000);
    }
    return NULL;
}

CHECK(time_passes_while_one_spins)
{
    uint32_t start = uptime();

    for (uint32_t i = 0; uptime() == start; i++)
        HOLDS(i < 100000000);
    return NULL;
}

CHECK(sleepers_wake_in_order)
{
    int ends[2];
    char order[5] = "";

    HOLDS(pipe(ends) == 0);
    for (int i = 0; i < 4; i++) {
        if (fork() > 0)
            continue;
        sleep(100 * (4 - i));
        write(ends[1], &"abcd"[i], 1);
        exit(0);
    }
    for (int i = 0; i < 4; i++)
        HOLDS(read(ends[0], order + i, 1) == 1);
    HOLDS(strcmp(order, "dcba") == 0);
    for (int i = 0, status; i < 4; i++)
        HOLDS(wait(-1, &status, 0) > 0);
    return NULL;
}

static int sleep_long(void) { return sleep(1000000); }

CHECK(kill_who_sleeps)
{
    int pid = child(sleep_long);

    sleep(20);
    uint32_t start = uptime();
    kill(pid);
    HOLDS(status_of(pid) == STATUS_KILLED);
    HOLDS(uptime() - start < 1000);
    return NULL;
}

CHECK(yield_returns)
{
    for (int i = 0; i < 50; i++)
        HOLDS(yield() == 0);
    return NULL;
}
