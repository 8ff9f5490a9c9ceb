/* tick [MS [TIMES]]: print the time since boot at an interval; for ever if TIMES is 0 or absent. */
#include "user.h"

int main(int argc, char **argv)
{
    uint32_t interval = argc > 1 ? number_or(argv[1], 1000) : 1000;
    uint32_t times = argc > 2 ? number_or(argv[2], 0) : 0;

    for (uint32_t i = 1; times == 0 || i <= times; i++) {
        uint32_t now = uptime();
        printf("tick %u at %u.%02us\n", i, now / 1000, now / 10 % 100);
        if (i != times)
            sleep(interval);
    }
    return 0;
}
