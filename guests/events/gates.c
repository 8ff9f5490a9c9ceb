/* Interrupts and exceptions through gates of every kind (Intel SDM 3A, 6.12). */
#include "events.h"

static struct start from(int ring, const char *snippet)
{
    return ring ? ring_3(snippet) : ring_0(snippet);
}

static void kinds(void)
{
    for (int ring = 0; ring <= 3; ring += 3)
        for (int kind = 0; kind < 32; kind++)
            for (int dpl = 0; dpl <= 3; dpl += 3) {
                struct start start = from(ring, int_50);
                bool narrow = kind == 6 || kind == 7;
                idt[0x50] = gate(K_CODE, narrow ? (void *)LOW : hop, kind, dpl, 0);
                start.eflags |= IF | IOPL_3 | 0x8d5;
                experiment(&start, "ring %x int 50 type %x dpl %x", ring, kind, dpl);
                idt[0x50] &= ~PRESENT;
                experiment(&start, "ring %x int 50 type %x dpl %x absent", ring, kind, dpl);
            }
    fresh();
}

/* Code segments that a gate can name, for INT n and for an exception. */
static void targets(void)
{
    static const char *const causes[] = { int_50, undefined };

    for (int ring = 0; ring <= 3; ring += 3)
        for (int cause = 0; cause < 2; cause++)
            for (const uint16_t *selector = selectors; *selector != END; selector++) {
                struct start start = from(ring, causes[cause]);
                bool low = (*selector & ~3) == K_CODE_16;
                idt[0x50] = idt[6] = gate(*selector, low ? (void *)LOW : hop, 14, 3, 0);
                experiment(&start, "ring %x %s to %x", ring, cause ? "#UD" : "int 50", *selector);
            }
    fresh();
}

/* Exceptions with error codes through 16-bit gates. */
static void narrow(void)
{
    for (int ring = 0; ring <= 3; ring += 3)
        for (int kind = 6; kind <= 7; kind++) {
            struct start start = from(ring, load_ds);
            idt[13] = idt[6] = gate(K_CODE, (void *)LOW, kind, 3, 0);
            start.eax = SELECTORS;
            start.eflags |= IF;
            experiment(&start, "ring %x #GP through type %x", ring, kind);
            start.eip = (uint32_t)undefined;
            experiment(&start, "ring %x #UD through type %x", ring, kind);
            idt[0x50] = gate(K_CODE_16, (void *)LOW, kind, 3, 0);
            start.eip = (uint32_t)int_50;
            experiment(&start, "ring %x int 50 to 16-bit code through type %x", ring, kind);
        }
    fresh();
}

/* The inner stack that the TSS names. */
static void stacks(void)
{
    static const uint32_t offsets[] = { 4, 8, ABSENT_PAGE + 0x1000, ABSENT_PAGE + 0x1008, READ_ONLY_PAGE + 0x800 };

    for (const uint16_t *selector = selectors; *selector != END; selector++) {
        struct start start = ring_3(int_50);
        idt[10] = idt[12] = idt[13] = idt[8] = gate(TSS_B, 0, 5, 0, 0);
        idt[0x50] = gate(K_CODE, hop, 14, 3, 0);
        tss_a.ss0 = *selector;
        experiment(&start, "int 50 with ss0 %x", *selector);
        fresh();
        idt[10] = idt[12] = idt[13] = idt[8] = gate(TSS_B, 0, 5, 0, 0);
        tss_a.ss0 = *selector;
        far_pointer.selector = GATE_3;
        start.eip = (uint32_t)call_far;
        experiment(&start, "call gate with ss0 %x", *selector);
        fresh();
    }
    for (uint32_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        struct start start = ring_3(int_50);
        idt[14] = idt[8] = gate(TSS_B, 0, 5, 0, 0);
        tss_a.esp0 = offsets[i];
        experiment(&start, "int 50 with esp0 %x", offsets[i]);
        fresh();
    }
    for (uint32_t limit = 3; limit < 14; limit++) {
        struct start start = ring_3(int_50);
        idt[10] = idt[8] = gate(TSS_B, 0, 5, 0, 0);
        gdt[TSS_A / 8] = descriptor((uint32_t)&tss_a, limit, 0x89, 0);
        asm volatile("ltr %w0" : : "r"(TSS_A));
        experiment(&start, "int 50 with a TSS of limit %x", limit);
        fresh();
    }
    tss_16.sp0 = STACK_TSS;
    for (uint32_t limit = 1; limit < 8; limit++) {
        struct start start = ring_3(int_50);
        idt[10] = idt[8] = gate(TSS_B, 0, 5, 0, 0);
        gdt[TSS_16 / 8] = descriptor((uint32_t)&tss_16, limit, 0x81, 0);
        asm volatile("ltr %w0" : : "r"(TSS_16));
        experiment(&start, "int 50 with a 16-bit TSS of limit %x", limit);
        fresh();
    }
}

static void flags_and_limits(void)
{
    static const uint32_t flags[] = { 0, IF, NT, IOPL_3, 0x8d5, 1 << 18, 1 << 21 };

    for (int ring = 0; ring <= 3; ring += 3)
        for (int kind = 14; kind <= 15; kind++)
            for (uint32_t i = 0; i < sizeof flags / sizeof *flags; i++) {
                struct start start = from(ring, int_50);
                idt[0x50] = gate(K_CODE, hop, kind, 3, 0);
                start.eflags |= flags[i];
                experiment(&start, "ring %x int 50 type %x eflags %x", ring, kind, flags[i]);
            }
    fresh();
    for (int ring = 0; ring <= 3; ring += 3)
        for (uint32_t limit = 0x27f; limit <= 0x288; limit++) {
            struct start start = from(ring, int_50);
            idtr.limit = limit;
            load_tables();
            experiment(&start, "ring %x int 50 with an IDT of limit %x", ring, limit);
        }
    fresh();
    for (int ring = 0; ring <= 3; ring += 3)
        for (int dpl = 0; dpl <= 3; dpl += 3) {
            static const struct { const char *name, *snippet; uint8_t vector; } few[] = {
                { "int3", breakpoint, 3 }, { "into", overflow, 4 }, { "int1", trap_1, 1 }, { "div", divide, 0 },
            };
            for (uint32_t i = 0; i < sizeof few / sizeof *few; i++) {
                struct start start = from(ring, few[i].snippet);
                idt[few[i].vector] = gate(K_CODE, stub(few[i].vector), 14, dpl, 0);
                experiment(&start, "ring %x %s dpl %x", ring, few[i].name, dpl);
            }
        }
    fresh();
}

static void pages(void)
{
    static const uint32_t places[] = { ABSENT_PAGE, ABSENT_PAGE + 0xffe, READ_ONLY_PAGE, READ_ONLY_PAGE - 2 };

    for (int ring = 0; ring <= 3; ring += 3)
        for (uint32_t i = 0; i < sizeof places / sizeof *places; i++) {
            struct start start = from(ring, touch_edi);
            start.edi = places[i];
            experiment(&start, "ring %x load from %x", ring, places[i]);
            start.eip = (uint32_t)store_edi;
            experiment(&start, "ring %x store to %x", ring, places[i]);
        }
}

void gates(void)
{
    part("kinds of gates");
    kinds();
    part("segments that gates name");
    targets();
    part("16-bit gates");
    narrow();
    part("inner stacks");
    stacks();
    part("flags, limits, privileges");
    flags_and_limits();
    part("page faults");
    pages();
}
