/* Far jumps, calls and returns to everything that a selector can name (Intel SDM 2, JMP, CALL, RET, IRET). */
#include "events.h"

static bool is_16(uint16_t selector)
{
    return (selector & ~3) == K_CODE_16 || (selector & ~3) == (U_CODE_16 & ~3);
}

static void to_all(const char *name, const char *snippet)
{
    for (int ring = 0; ring <= 3; ring += 3)
        for (const uint16_t *selector = selectors; *selector != END; selector++) {
            struct start start = ring ? ring_3(snippet) : ring_0(snippet);
            far_pointer.selector = *selector;
            far_pointer.offset = is_16(*selector) ? LOW : (uint32_t)hop;
            asm volatile("lldt %w0" : : "r"(LOCAL));
            experiment(&start, "ring %x %s %x", ring, name, *selector);
        }
}

static void returns(void)
{
    static const struct { const char *name, *snippet; } ways[] = {
        { "retf", return_far }, { "retf 8", return_far_8 }, { "iret", interrupt_return },
    };

    for (uint32_t way = 0; way < sizeof ways / sizeof *ways; way++)
        for (int ring = 0; ring <= 3; ring += 3)
            for (const uint16_t *selector = selectors; *selector != END; selector++) {
                struct start start = ring ? ring_3(ways[way].snippet) : ring_0(ways[way].snippet);
                start.eax = 2;
                start.ebx = STACK_3 - 0x40;
                start.ecx = *selector;
                start.edx = (*selector & 3) == 1 ? R1_DATA : U_DATA;
                start.es = 3;
                start.fs = K_DATA;
                start.gs = U_DATA;
                if (ring)
                    start.fs = 0;
                experiment(&start, "ring %x %s to %x", ring, ways[way].name, *selector);
            }
    for (const uint16_t *selector = selectors; *selector != END; selector++) {
        struct start start = ring_0(interrupt_return);
        start.eax = 2;
        start.ebx = STACK_3 - 0x40;
        start.ecx = U_CODE;
        start.edx = *selector;
        experiment(&start, "iret to ring 3 with ss %x", *selector);
    }
}

/* EFLAGS that IRET may change, by ring and IOPL. */
static void flags(void)
{
    static const uint32_t images[] = { 0, 0xffffffff & ~(VM | TF | NT), IOPL_3, IF, RF, 1 << 18, 1 << 19, 1 << 20, 1 << 21 };

    for (int ring = 0; ring <= 3; ring += 3)
        for (uint32_t i = 0; i < sizeof images / sizeof *images; i++)
            for (uint32_t before = 0; before <= IOPL_3; before += IOPL_3) {
                struct start start = ring ? ring_3(interrupt_return) : ring_0(interrupt_return);
                start.eflags |= before;
                start.eax = images[i];
                start.ebx = STACK_3 - 0x40;
                start.ecx = U_CODE;
                start.edx = U_DATA;
                experiment(&start, "ring %x iopl %x iret with eflags %x", ring, before >> 12, images[i]);
            }
}

void transfers(void)
{
    part("far jumps");
    to_all("jmp far", jump_far);
    part("far calls");
    to_all("call far", call_far);
    part("returns");
    returns();
    flags();
}
