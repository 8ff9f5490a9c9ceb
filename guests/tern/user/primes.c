/* primes [LIMIT]: how many primes there are up to LIMIT, and the largest: the sieve of Eratosthenes. */
#include "user.h"

int main(int argc, char **argv)
{
    uint32_t limit = argc > 1 ? number_or(argv[1], 100000) : 100000, found = 0, largest = 0;
    char *composite = limit < 1u << 28 ? sbrk(limit + 1) : NULL; /* zeros */

    if (!composite) {
        complain("primes: out of memory\n");
        return 1;
    }
    for (uint32_t i = 2; i <= limit; i++) {
        if (composite[i])
            continue;
        found++;
        largest = i;
        for (uint32_t multiple = 2 * i; multiple <= limit; multiple += i)
            composite[multiple] = 1;
    }
    printf("primes up to %u: %u, the largest %u\n", limit, found, largest);
    return 0;
}
