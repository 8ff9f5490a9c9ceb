/* Virtual-8086 mode: in by IRET, out by interrupts and exceptions, and what is allowed there (Intel SDM 3B, 20). */
#include "events.h"

static struct start in_v86(const char *snippet)
{
    return (struct start){ .ds = K_DATA, .es = K_DATA, .eip = LOW_OFFSET(snippet), .cs = LOW >> 4, .eflags = 2 | VM,
                           .esp = 0x800, .ss = 0x680, .v86_es = 0x1111, .v86_ds = 0x2222, .v86_fs = 0x3333,
                           .v86_gs = 0x4444 };
}

static const struct { const char *name, *snippet; } few[] = {
    { "int 50", low_int_50 }, { "cli", low_cli }, { "sti", low_sti }, { "pushf", low_pushf }, { "pushfd", low_pushfl },
    { "popf", low_popf }, { "popfd", low_popfl }, { "iret", low_iret }, { "iretd", low_iretl }, { "hlt", low_hlt },
    { "in", low_in }, { "mov ds", low_load_ds }, { "ud2", low_undefined },
};

void virtual_8086(void)
{
    part("virtual-8086 mode");
    for (uint32_t iopl = 0; iopl < 4; iopl += 3)
        for (uint32_t i = 0; i < sizeof few / sizeof *few; i++)
            for (uint32_t flags = 0; flags <= IF; flags += IF) {
                struct start start = in_v86(few[i].snippet);
                start.eflags |= iopl << 12 | flags;
                start.eax = 0x7ad7;
                start.ecx = LOW >> 4;
                experiment(&start, "iopl %x eflags %x %s", iopl, flags, few[i].name);
            }
    part("gates out of virtual-8086 mode");
    for (uint32_t i = 0; i < 3; i++)
        for (const uint16_t *selector = selectors; *selector != END; selector++) {
            struct start start = in_v86(i ? low_undefined : low_int_50);
            start.eflags |= IOPL_3;
            idt[0x50] = idt[6] = gate(*selector, i == 2 ? (void *)LOW : hop, i == 2 ? 6 : 14, 3, 0);
            experiment(&start, "%s to %x", i == 0 ? "int 50" : i == 1 ? "#UD" : "#UD by a 16-bit gate", *selector);
        }
    fresh();
    for (uint32_t bit = 0; bit < 2; bit++)
        for (uint32_t iopl = 0; iopl < 4; iopl += 3) {
            struct start start = in_v86(low_in);
            start.eflags |= iopl << 12;
            tss_a.bitmap_base = (uint32_t)tss_a.bitmap - (uint32_t)&tss_a;
            tss_a.bitmap[0x61 / 8] = bit << 1;
            experiment(&start, "iopl %x in with its bit in the map %x", iopl, bit);
        }
    fresh();
    /* IRET from ring 3 enters it not. */
    struct start start = ring_3(interrupt_return);
    start.eax = 2 | VM;
    start.ecx = U_CODE;
    experiment(&start, "ring 3 iret with VM");
}
