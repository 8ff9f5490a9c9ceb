/* mem: where the memory is. */
#include "user.h"

int main(void)
{
    struct memory_info m;
    struct process_info p;

    memory_info(&m);
    printf("frames: %u total, %u reserved, %u used, %u free\n", m.total, m.reserved, m.used, m.free);
    for (int i = 0; process_info(i, &p) == 0; i++)
        printf("%5d %-15s %5u pages\n", p.pid, p.name, p.pages);
    return 0;
}
