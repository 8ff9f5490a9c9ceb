/*
 * sum [ROUNDS]: fill a quarter of a MiB with pseudo-random words and mix them, over and over. The
 * result depends on ROUNDS alone, so two machines can be compared.
 */
#include "user.h"

#define WORDS (256 * 1024 / 4)

static uint32_t words[WORDS];

int main(int argc, char **argv)
{
    uint32_t rounds = argc > 1 ? number_or(argv[1], 10) : 10, x = 2463534242u, sum = 0;

    for (uint32_t r = 0; r < rounds; r++) {
        for (int i = 0; i < WORDS; i++)
            words[i] += x = xorshift(x);
        for (int i = 0; i < WORDS; i++)
            sum = (sum << 5 | sum >> 27) ^ words[(i * 4099u) % WORDS];
    }
    printf("sum %u: %08x\n", rounds, sum);
    return 0;
}
