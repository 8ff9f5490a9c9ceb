/*
 * dice [ROLLS [SEED]]: throw dice, and darts at a circle. Mean and variance are kept in the FPU's
 * registers and memory all the time; the result depends on the arguments alone, to the last digit.
 */
#include "user.h"

/* From 0 to 1. */
static double uniform(uint32_t *x)
{
    return (int)((*x = xorshift(*x)) >> 1) / 2147483648.0;
}

/* Nine digits behind the point; value is below 2. */
static uint32_t digits(double value)
{
    return (int)(value * 1e9);
}

int main(int argc, char **argv)
{
    uint32_t rolls = argc > 1 ? number_or(argv[1], 10000) : 10000, x = argc > 2 ? number_or(argv[2], 1) : 1;
    double mean = 0, squares = 0, inside = 0;

    if (x == 0 || rolls < 2 || rolls > 0x7fffffff)
        return usage("dice [ROLLS [SEED]], neither of them 0");
    for (int n = 1; n <= (int)rolls; n++) {
        /* Welford, "Note on a method for calculating corrected sums of squares", Technometrics 4 (1962). */
        double roll = 1 + (x = xorshift(x)) % 6, off = roll - mean, a = uniform(&x), b = uniform(&x);
        mean += off / n;
        squares += off * (roll - mean);
        inside += a * a + b * b < 1;
    }
    double variance = squares / (rolls - 1), pi = 4 * inside / rolls;
    printf("dice %u: mean %d.%09u, variance %d.%09u, pi about %d.%09u\n", rolls, (int)mean,
           digits(mean - (int)mean), (int)variance, digits(variance - (int)variance), (int)pi,
           digits(pi - (int)pi));
    return 0;
}
