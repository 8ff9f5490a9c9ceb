/* A second exception while the first is delivered: double faults (Intel SDM 3A, table 6-5). */
#include "events.h"

static const struct { uint8_t vector; const char *name, *snippet; uint32_t eax, edi, eflags; } firsts[] = {
    { 0, "#DE", divide, 0, 0, 0 },
    { 6, "#UD", undefined, 0, 0, 0 },
    { 10, "#TS", iret_here, 0, 0, NT },
    { 11, "#NP", load_ds, ABSENT_U_DATA, 0, 0 },
    { 12, "#SS", load_ss, ABSENT_U_DATA, 0, 0 },
    { 13, "#GP", load_ds, SELECTORS, 0, 0 },
    { 14, "#PF", touch_edi, 0, ABSENT_PAGE, 0 },
};

enum { ABSENT_GATE, WRONG_KIND, NULL_CODE, DATA_AS_CODE, GONE_CODE, BEYOND_LIMIT, BAD_TASK, BAD_STACK, GONE_STACK, STACK_PAGE, WAYS };

static const struct { const char *name; uint8_t vector; } seconds[WAYS] = {
    { "#NP by an absent gate", 11 },
    { "#GP by a wrong kind of gate", 13 },
    { "#GP by a null selector", 13 },
    { "#GP by a data segment", 13 },
    { "#NP by an absent segment", 11 },
    { "#GP by the segment's limit", 13 },
    { "#GP by a task gate to no TSS", 13 },
    { "#TS by a bad stack segment", 10 },
    { "#SS by an absent stack segment", 12 },
    { "#PF by an absent stack page", 14 },
};

/* Make the delivery of `vector` fail; where the stack is the reason, #DF gets a task of its own. */
static void spoil(uint8_t vector, int way)
{
    uint64_t usual = gate(K_CODE, stub(vector), 14, 0, 0);

    switch (way) {
    case ABSENT_GATE: idt[vector] = usual & ~PRESENT; break;
    case WRONG_KIND: idt[vector] = gate(K_CODE, stub(vector), 13, 0, 0); break;
    case NULL_CODE: idt[vector] = gate(0, stub(vector), 14, 0, 0); break;
    case DATA_AS_CODE: idt[vector] = gate(K_DATA, stub(vector), 14, 0, 0); break;
    case GONE_CODE: idt[vector] = gate(ABSENT_CODE, stub(vector), 14, 0, 0); break;
    case BEYOND_LIMIT: idt[vector] = gate(SHORT_CODE, stub(vector), 14, 0, 0); break;
    case BAD_TASK: idt[vector] = gate(K_DATA, 0, 5, 0, 0); break;
    case BAD_STACK: tss_a.ss0 = U_DATA; break;
    case GONE_STACK: tss_a.ss0 = ABSENT_DATA; break;
    case STACK_PAGE: tss_a.esp0 = ABSENT_PAGE + 0x1000; break;
    }
    if (way >= BAD_STACK)
        idt[8] = gate(TSS_B, 0, 5, 0, 0);
}

void doubles(void)
{
    part("double faults");
    for (int ring = 0; ring <= 3; ring += 3)
        for (uint32_t first = 0; first < sizeof firsts / sizeof *firsts; first++)
            for (int way = 0; way < (ring ? WAYS : BAD_STACK); way++) {
                struct start start = ring ? ring_3(firsts[first].snippet) : ring_0(firsts[first].snippet);
                start.eax = firsts[first].eax;
                if (ring == 0 && start.eax == ABSENT_U_DATA)
                    start.eax = ABSENT_DATA;
                start.edi = firsts[first].edi;
                start.eflags |= firsts[first].eflags;
                tss_a.link = TSS_B; /* not busy: #TS for IRET with NT */
                spoil(firsts[first].vector, way);
                experiment(&start, "ring %x %s then %s", ring, firsts[first].name, seconds[way].name);
                fresh();
            }
}
