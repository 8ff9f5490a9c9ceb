/* free: physical memory in KiB. */
#include "user.h"

int main(void)
{
    struct memory_info m;

    memory_info(&m);
    printf("   total reserved     used     free\n");
    printf("%8u %8u %8u %8u\n", m.total * 4, m.reserved * 4, m.used * 4, m.free * 4);
    return 0;
}
