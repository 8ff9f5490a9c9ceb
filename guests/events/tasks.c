/* Task switches by jumps, calls, gates and IRET, right and wrong (Intel SDM 3A, 7.3). */
#include "events.h"

/* What the switch has left in the TSSs, the GDT and CR0. */
static void show(void)
{
    const struct tss *const known[] = { &tss_a, &tss_b };
    const uint16_t tasks[] = { TSS_A, TSS_B, TSS_C, TSS_16 };

    for (int i = 0; i < 2; i++) {
        const struct tss *t = known[i];
        say("  %s: link %x eip %x eflags %x (rf %x) regs %x %x %x %x %x %x %x %x", i ? "b" : "a", t->link & 0xffff, t->eip,
            t->eflags & ~RF, (t->eflags & RF) != 0, t->eax, t->ecx, t->edx, t->ebx, t->esp, t->ebp, t->esi, t->edi);
        say(" segments %x %x %x %x %x %x ldt %x\n", t->es & 0xffff, t->cs & 0xffff, t->ss & 0xffff, t->ds & 0xffff,
            t->fs & 0xffff, t->gs & 0xffff, t->ldt & 0xffff);
    }
    say("  16: link %x ip %x flags %x regs %x %x %x %x %x %x %x %x", tss_16.link, tss_16.ip, tss_16.flags, tss_16.ax,
        tss_16.cx, tss_16.dx, tss_16.bx, tss_16.sp, tss_16.bp, tss_16.si, tss_16.di);
    say(" segments %x %x %x %x ldt %x\n  busy", tss_16.es, tss_16.cs, tss_16.ss, tss_16.ds, tss_16.ldt);
    for (int i = 0; i < 4; i++)
        say(" %x", (uint32_t)(after.gdt[tasks[i] / 8] >> 41) & 1);
    say(" ts %x\n  now", after.cr0 >> 3 & 1);
    for (int i = 7; i >= 0; i--)
        if (i != 3) /* ESP, which PUSHA stores after the frame */
            say(" %x", after.general[i]);
    say("\n");
}

static struct start prepared(int ring, const char *snippet)
{
    struct start start = ring ? ring_3(snippet) : ring_0(snippet);

    start.ecx = 0xc0c0c0c0;
    start.edx = 0xd0d0d0d0;
    start.ebx = 0xb0b0b0b0;
    start.ebp = 0xbbbbbbbb;
    start.esi = 0x51515151;
    start.edi = 0xd1d1d1d1;
    start.eflags |= 0x8c1;
    tss_b.eax = 1;
    tss_b.ecx = 2;
    tss_b.edx = 3;
    tss_b.ebx = 4;
    tss_b.ebp = 5;
    tss_b.esi = 6;
    tss_b.edi = 7;
    tss_16.ax = 0x11;
    tss_16.cx = 0x22;
    tss_16.bp = 0x55;
    return start;
}

static const struct { const char *name, *snippet; uint16_t selector; } ways[] = {
    { "jmp tss", jump_far, TSS_B },
    { "call tss", call_far, TSS_B },
    { "jmp task gate", jump_far, TASK_GATE | 3 },
    { "call task gate", call_far, TASK_GATE | 3 },
    { "int 50", int_50, 0 },
    { "#UD", undefined, 0 },
    { "#GP with an error code", load_ds, 0 },
    { "jmp 16-bit tss", jump_far, TSS_16 },
    { "call 16-bit tss", call_far, TSS_16 },
};

static void switches(void)
{
    for (int ring = 0; ring <= 3; ring += 3)
        for (uint32_t i = 0; i < sizeof ways / sizeof *ways; i++)
            for (uint32_t flags = 0; flags <= NT; flags += NT) {
                struct start start = prepared(ring, ways[i].snippet);
                far_pointer.selector = ways[i].selector;
                start.eax = SELECTORS;
                start.eflags |= flags;
                idt[0x50] = idt[6] = idt[13] = gate(TSS_B, 0, 5, 3, 0);
                if ((ways[i].selector & ~3) == TSS_B || ways[i].selector == TSS_16)
                    idt[13] = gate(K_CODE, stub(13), 14, 0, 0);
                experiment(&start, "ring %x %s eflags %x", ring, ways[i].name, flags);
                show();
                fresh();
            }
}

/* IRET with NT, to a task that was left. */
static void back(void)
{
    static const uint16_t links[] = { TSS_B, BUSY_TSS, BUSY_TSS | 3, TSS_16, 0, K_DATA, SELECTORS, LOCAL_DATA, ABSENT_TSS, GATE };

    for (int ring = 0; ring <= 3; ring += 3)
        for (uint32_t i = 0; i < sizeof links / sizeof *links; i++) {
            struct start start = prepared(ring, iret_here);
            tss_a.link = links[i];
            start.eflags |= NT;
            experiment(&start, "ring %x iret to %x", ring, links[i]);
            show();
            fresh();
        }
    /* There and back again: the called task returns at once. */
    for (int narrow = 0; narrow < 2; narrow++) {
        struct start start = prepared(0, call_far);
        far_pointer.selector = narrow ? TSS_16 : TSS_B;
        tss_b.eip = (uint32_t)iret_here;
        tss_16.ip = LOW_OFFSET(low_iretl) + LOW;
        experiment(&start, "%s task called that returns", narrow ? "16-bit" : "32-bit");
        show();
        fresh();
    }
}

/* A new task with one thing wrong. Faults after the switch go to task C. */
static void wrong(void)
{
    static const struct { const char *name; uint32_t *field, value; } things[] = {
        { "cs null", &tss_b.cs, 0 },
        { "cs data", &tss_b.cs, K_DATA },
        { "cs absent", &tss_b.cs, ABSENT_CODE },
        { "cs of another ring", &tss_b.cs, K_CODE | 3 },
        { "cs beyond the table", &tss_b.cs, SELECTORS },
        { "cs conforming", &tss_b.cs, CONFORMING },
        { "cs 16-bit", &tss_b.cs, K_CODE_16 },
        { "ss null", &tss_b.ss, 0 },
        { "ss code", &tss_b.ss, K_CODE },
        { "ss absent", &tss_b.ss, ABSENT_DATA },
        { "ss of another ring", &tss_b.ss, U_DATA },
        { "ss read-only", &tss_b.ss, READ_ONLY },
        { "ds null", &tss_b.ds, 0 },
        { "ds absent", &tss_b.ds, ABSENT_DATA },
        { "ds execute-only", &tss_b.ds, EXECUTE_ONLY },
        { "ds beyond the table", &tss_b.ds, SELECTORS },
        { "gs a system segment", &tss_b.gs, TSS_A },
        { "ldt", &tss_b.ldt, LOCAL },
        { "ldt null", &tss_b.ldt, 3 },
        { "ldt a data segment", &tss_b.ldt, K_DATA },
        { "ldt absent", &tss_b.ldt, ABSENT_LOCAL },
        { "ldt in itself", &tss_b.ldt, LOCAL | 4 },
        { "eip beyond the limit", &tss_b.cs, SHORT_CODE },
        { "eflags all set", &tss_b.eflags, 0xffffffff & ~(VM | TF) },
        { "eflags clear", &tss_b.eflags, 0 },
    };

    for (int ring = 0; ring <= 3; ring += 3)
        for (uint32_t i = 0; i < sizeof things / sizeof *things; i++) {
            struct start start = prepared(ring, jump_far);
            far_pointer.selector = TASK_GATE | 3;
            *things[i].field = things[i].value;
            for (int vector = 10; vector < 14; vector++)
                idt[vector] = gate(TSS_C, 0, 5, 0, 0);
            experiment(&start, "ring %x task with %s", ring, things[i].name);
            show();
            fresh();
        }
    static const uint16_t bad[] = { ABSENT_TSS, BUSY_TSS, SHORT_TSS, TSS_A };
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++)
        for (int call = 0; call < 2; call++) {
            struct start start = prepared(0, call ? call_far : jump_far);
            far_pointer.selector = bad[i];
            experiment(&start, "%s to %x", call ? "call" : "jmp", bad[i]);
            show();
            fresh();
            idt[0x50] = gate(bad[i], 0, 5, 0, 0);
            start.eip = (uint32_t)int_50;
            experiment(&start, "task gate to %x", bad[i]);
            fresh();
        }
}

/* Tasks in ring 3 and in virtual-8086 mode. */
static void rings(void)
{
    struct start start = prepared(0, jump_far);

    far_pointer.selector = TSS_B;
    tss_b.cs = U_CODE;
    tss_b.es = tss_b.ss = tss_b.ds = tss_b.fs = tss_b.gs = U_DATA;
    tss_b.esp = STACK_3;
    experiment(&start, "a task in ring 3");
    show();
    fresh();
    start = prepared(0, jump_far);
    far_pointer.selector = TSS_B;
    tss_b.eip = LOW_OFFSET(low_int_50);
    tss_b.cs = LOW >> 4;
    tss_b.ss = 0x680;
    tss_b.esp = 0x800;
    tss_b.es = tss_b.ds = tss_b.fs = tss_b.gs = 0x1234;
    tss_b.eflags = 2 | VM | IOPL_3;
    experiment(&start, "a task in virtual-8086 mode");
    show();
    fresh();
}

void tasks(void)
{
    part("task switches");
    switches();
    back();
    part("tasks that are wrong");
    wrong();
    part("tasks in other rings");
    rings();
}
