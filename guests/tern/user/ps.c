/* ps: the processes. The time is the processor time used. */
#include "user.h"

static const char *const states[] = {"unused", "new", "runnable", "running", "sleeping", "zombie"};

int main(void)
{
    struct process_info p;

    printf("  PID PARENT STATE    PAGES NAME            TIME\n");
    for (int i = 0; process_info(i, &p) == 0; i++)
        printf("%5d %6d %-8s %5u %-15s %u.%02us\n", p.pid, p.parent, states[p.state], p.pages, p.name,
               p.milliseconds / 1000, p.milliseconds / 10 % 100);
    return 0;
}
