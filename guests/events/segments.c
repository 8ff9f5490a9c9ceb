/* Loading segment registers, LDTR and TR with everything that a selector can name (Intel SDM 2, MOV, POP, LDS, LLDT, LTR). */
#include "events.h"

static const struct { const char *name, *snippet; } loads[] = {
    { "mov ds", load_ds }, { "mov gs", load_gs }, { "mov ss", load_ss }, { "pop ds", pop_ds }, { "pop ss", pop_ss },
};

static void with_local_table(void)
{
    asm volatile("lldt %w0" : : "r"(LOCAL));
}

void segments(void)
{
    part("segment registers");
    for (int ring = 0; ring <= 3; ring += 3)
        for (uint32_t load = 0; load < sizeof loads / sizeof *loads; load++)
            for (const uint16_t *selector = selectors; *selector != END; selector++) {
                struct start start = ring ? ring_3(loads[load].snippet) : ring_0(loads[load].snippet);
                start.eax = *selector;
                with_local_table();
                experiment(&start, "ring %x %s %x", ring, loads[load].name, *selector);
            }
    part("without a local table");
    for (int selector = 4; selector < 32; selector += 8) {
        struct start start = ring_0(load_ds);
        start.eax = selector;
        experiment(&start, "mov ds %x", selector);
    }
    part("lldt, ltr");
    for (const uint16_t *selector = selectors; *selector != END; selector++) {
        struct start start = ring_0(lldt);
        start.eax = *selector;
        experiment(&start, "lldt %x", *selector);
        start.eip = (uint32_t)ltr;
        experiment(&start, "ltr %x", *selector);
        if (*selector < SELECTORS)
            say("  type of the descriptor then %x\n", (uint32_t)(after.gdt[*selector >> 3] >> 40) & 0x1e);
    }
}
