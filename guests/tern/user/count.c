/* count [TIMES [MILLISECONDS]]: print 1, 2, 3 ... at an interval; for ever if TIMES is 0 or absent. */
#include "user.h"

int main(int argc, char **argv)
{
    uint32_t times = argc > 1 ? number_or(argv[1], 0) : 0;
    uint32_t interval = argc > 2 ? number_or(argv[2], 1000) : 1000;

    for (uint32_t i = 1; times == 0 || i <= times; i++) {
        printf("%u\n", i);
        if (i != times)
            sleep(interval);
    }
    return 0;
}
