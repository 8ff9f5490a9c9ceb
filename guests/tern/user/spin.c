/* spin MILLISECONDS, or spin -n ITERATIONS: keep the processor busy. */
#include "user.h"

static void iterate(uint32_t n)
{
    for (volatile uint32_t i = 0; i < n; i++)
        ;
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "-n") == 0) {
        iterate(number_or(argv[2], 0));
        return 0;
    }
    uint32_t start = uptime(), duration = number_or(argv[1], 1000);
    while (uptime() - start < duration)
        iterate(10000);
    return 0;
}
