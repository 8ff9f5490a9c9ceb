/* uptime: how long the machine has been up. */
#include "user.h"

int main(void)
{
    uint32_t ms = uptime();

    printf("up %u.%02us\n", ms / 1000, ms / 10 % 100);
    return 0;
}
