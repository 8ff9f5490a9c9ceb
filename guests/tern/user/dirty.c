/*
 * dirty RATE PAGES [SECONDS]: write to RATE pages a second, going round in a set of PAGES pages; for
 * ever, or so long. Every write is checked the next time round: memory that was lost on the way is told.
 */
#include "user.h"

#define STEP 20 /* milliseconds */

int main(int argc, char **argv)
{
    uint32_t rate = argc > 1 ? number_or(argv[1], 0) : 0, pages = argc > 2 ? number_or(argv[2], 0) : 0;
    uint32_t seconds = argc > 3 ? number_or(argv[3], 0) : 0, start = uptime(), written = 0, wrong = 0;

    if (rate == 0 || pages == 0 || pages > 0x80000)
        return usage("dirty RATE PAGES [SECONDS]");
    char *memory = sbrk((pages + 1) * PAGE_SIZE);
    if (!memory) {
        complain("dirty: out of memory\n");
        return 1;
    }
    memory += -(uint32_t)memory % PAGE_SIZE;
    while (seconds == 0 || uptime() - start < seconds * 1000) {
        /* In this order no product is too large for a day or so. */
        uint32_t elapsed = uptime() - start, due = elapsed / 1000 * rate + elapsed % 1000 * rate / 1000;
        for (; written != due; written++) {
            uint32_t round = written / pages;
            uint32_t *word = (uint32_t *)(memory + written % pages * PAGE_SIZE);
            wrong += *word != round;
            *word = round + 1;
        }
        sleep(STEP);
    }
    printf("dirty: %u pages written, %u wrong\n", written, wrong);
    return wrong != 0;
}
