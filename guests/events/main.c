/* The frame around the experiments: output, descriptor tables, and what an event left behind. */
#include <stdarg.h>

#include "events.h"

enum { COM1 = 0x3f8, PIC_MASK = 0x21 };

struct tss tss_a, tss_b, tss_c;
struct tss_16 tss_16;
uint64_t gdt[SELECTORS / 8], idt[256], local[2];
uint32_t directory[1024] __attribute__((aligned(4096))), tables[2][1024] __attribute__((aligned(4096)));
typeof(gdtr) gdtr;
typeof(idtr) idtr;
typeof(far_pointer) far_pointer;
struct outcome after;
static const uint16_t tops[] = { STACK_0, STACK_TSS, STACK_3, STACK_R1, STACK_B, STACK_C };

extern const char stubs[][16];
void begin(const struct start *);
void reload(void);

/* What the handlers push, and the processor before them. */
struct frame {
    uint32_t gs, fs, es, ds, edi, esi, ebp, esp, ebx, edx, ecx, eax, vector, pushed[];
};

const uint16_t selectors[] = {
    0, 3, K_CODE, K_DATA, K_DATA | 3, U_CODE, U_CODE & ~3, U_DATA, U_DATA & ~3, TSS_A, TSS_B, TSS_16, LOCAL, K_CODE_16,
    K_DATA_16, U_CODE_16, U_DATA_16, CONFORMING, CONFORMING | 3, R1_CODE, R1_DATA, EXECUTE_ONLY, EXECUTE_ONLY | 3,
    READ_ONLY, READ_ONLY | 3, ABSENT_DATA, ABSENT_CODE, ABSENT_TSS, BUSY_TSS, SHORT_TSS, GATE, GATE | 3, GATE_3,
    GATE_16, GATE_R0, GATE_ABSENT, GATE_TO_DATA, GATE_TO_CONFORMING, GATE_TO_R1, GATE_TO_NULL, TASK_GATE,
    TASK_GATE_BAD, ABSENT_LOCAL, INTERRUPT_GATE, SHORT_CODE, TSS_C, ABSENT_U_DATA, SELECTORS, SELECTORS | 3, LOCAL_DATA, LOCAL_CODE,
    LOCAL_CODE + 8, 0xfff8, END,
};

/* ---- output */

static void put(char c)
{
    uint8_t status;

    do
        asm volatile("inb %w1, %0" : "=a"(status) : "d"(COM1 + 5));
    while (!(status & 0x20));
    asm volatile("outb %0, %w1" : : "a"(c), "d"(COM1));
}

static void number(uint32_t value, int digits)
{
    while (digits < 8 && value >> 4 * digits)
        digits++;
    while (digits-- > 0)
        put("0123456789abcdef"[value >> 4 * digits & 15]);
}

/* %s, and numbers: %x, or %8x with so many digits. */
static void print(const char *format, va_list arguments)
{
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        int digits = 1;
        if (*++format >= '1' && *format <= '8')
            digits = *format++ - '0';
        if (*format == 's') {
            for (const char *text = va_arg(arguments, const char *); *text; text++)
                put(*text);
        } else {
            number(va_arg(arguments, uint32_t), digits);
        }
    }
}

void say(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    print(format, arguments);
    va_end(arguments);
}

void part(const char *name)
{
    say("== %s\n", name);
}

/* ---- tables */

uint64_t descriptor(uint32_t base, uint32_t limit, uint8_t access, uint8_t flags)
{
    uint32_t low = (limit & 0xffff) | base << 16;
    uint32_t high = (base >> 16 & 0xff) | access << 8 | (limit & 0xf0000) | flags << 20 | (base & 0xff000000);

    return (uint64_t)high << 32 | low;
}

uint64_t gate(uint16_t selector, const void *offset, uint8_t kind, uint8_t dpl, uint8_t parameters)
{
    uint32_t to = (uint32_t)offset;
    uint32_t high = (to & 0xffff0000) | 0x8000 | dpl << 13 | kind << 8 | parameters;

    return (uint64_t)high << 32 | selector << 16 | (to & 0xffff);
}

const void *stub(uint8_t vector)
{
    return stubs[vector];
}

static void fill_gdt(void)
{
    static const struct { uint16_t selector; uint8_t access, flags; } flat[] = {
        { K_CODE, 0x9a, 0xc }, { K_DATA, 0x92, 0xc }, { U_CODE, 0xfa, 0xc }, { U_DATA, 0xf2, 0xc },
        { CONFORMING, 0x9e, 0xc }, { R1_CODE, 0xba, 0xc }, { R1_DATA, 0xb2, 0xc }, { EXECUTE_ONLY, 0xf8, 0xc },
        { READ_ONLY, 0xf0, 0xc }, { ABSENT_DATA, 0x12, 0xc }, { ABSENT_CODE, 0x1a, 0xc },
        { ABSENT_U_DATA, 0x72, 0xc },
        { K_CODE_16, 0x9a, 0x0 }, { K_DATA_16, 0x92, 0x0 }, { U_CODE_16, 0xfa, 0x0 }, { U_DATA_16, 0xf2, 0x0 },
    };

    gdt[0] = 0;
    for (uint32_t i = 0; i < sizeof flat / sizeof *flat; i++)
        gdt[flat[i].selector / 8] = descriptor(0, flat[i].flags ? 0xfffff : 0xffff, flat[i].access, flat[i].flags);
    gdt[SHORT_CODE / 8] = descriptor(0, 0xfff, 0x9a, 0x4);
    gdt[TSS_A / 8] = descriptor((uint32_t)&tss_a, sizeof tss_a - 1, 0x89, 0);
    gdt[TSS_B / 8] = descriptor((uint32_t)&tss_b, sizeof tss_b - 1, 0x89, 0);
    gdt[TSS_16 / 8] = descriptor((uint32_t)&tss_16, sizeof tss_16 - 1, 0x81, 0);
    gdt[TSS_C / 8] = descriptor((uint32_t)&tss_c, sizeof tss_c - 1, 0x89, 0);
    gdt[ABSENT_TSS / 8] = descriptor((uint32_t)&tss_b, sizeof tss_b - 1, 0x09, 0);
    gdt[BUSY_TSS / 8] = descriptor((uint32_t)&tss_b, sizeof tss_b - 1, 0x8b, 0);
    gdt[SHORT_TSS / 8] = descriptor((uint32_t)&tss_b, 0x60, 0x89, 0);
    gdt[LOCAL / 8] = descriptor((uint32_t)local, sizeof local - 1, 0x82, 0);
    gdt[ABSENT_LOCAL / 8] = descriptor((uint32_t)local, sizeof local - 1, 0x02, 0);
    gdt[GATE / 8] = gate(K_CODE, hop, 12, 3, 0);
    gdt[GATE_3 / 8] = gate(K_CODE, hop, 12, 3, 3);
    gdt[GATE_16 / 8] = gate(K_CODE_16, (void *)LOW, 4, 3, 2);
    gdt[GATE_R0 / 8] = gate(K_CODE, hop, 12, 0, 0);
    gdt[GATE_ABSENT / 8] = gate(K_CODE, hop, 12, 3, 0) & ~PRESENT;
    gdt[GATE_TO_DATA / 8] = gate(K_DATA, hop, 12, 3, 0);
    gdt[GATE_TO_CONFORMING / 8] = gate(CONFORMING, hop, 12, 3, 0);
    gdt[GATE_TO_R1 / 8] = gate(R1_CODE, hop, 12, 3, 0);
    gdt[GATE_TO_NULL / 8] = gate(0, hop, 12, 3, 0);
    gdt[TASK_GATE / 8] = gate(TSS_B, 0, 5, 3, 0);
    gdt[TASK_GATE_BAD / 8] = gate(K_DATA, 0, 5, 3, 0);
    gdt[INTERRUPT_GATE / 8] = gate(K_CODE, hop, 14, 3, 0);
    local[0] = descriptor(0, 0xfffff, 0xf2, 0xc);
    local[1] = descriptor(0, 0xfffff, 0xfa, 0xc);
}

static void fill_pages(void)
{
    if (!directory[0])
        for (uint32_t i = 0; i < 2048; i++)
            tables[i >> 10][i & 1023] = i << 12 | 0x67;
    tables[1][ABSENT_PAGE >> 12 & 1023] = 0;
    tables[1][READ_ONLY_PAGE >> 12 & 1023] = READ_ONLY_PAGE | 0x25;
    for (int i = 0; i < 2; i++)
        directory[i] = (uint32_t)tables[i] | 7;
}

static void load_pages(void)
{
    uint32_t cr0;

    asm volatile("movl %0, %%cr3" : : "r"(directory) : "memory");
    asm volatile("movl %%cr0, %0; orl $0x80010000, %0; movl %0, %%cr0" : "=r"(cr0) : : "memory");
}

void fresh(void)
{
    fill_gdt();
    fill_pages();
    for (int vector = 0; vector < 256; vector++)
        idt[vector] = gate(K_CODE, stub(vector), 14, vector < 32 ? 0 : 3, 0);
    gdtr = (typeof(gdtr)){ sizeof gdt - 1, (uint32_t)gdt };
    idtr = (typeof(idtr)){ sizeof idt - 1, (uint32_t)idt };
    tss_a = (struct tss){ .esp0 = STACK_TSS, .ss0 = K_DATA, .esp1 = STACK_R1, .ss1 = R1_DATA, .cr3 = (uint32_t)directory };
    tss_a.bitmap_base = sizeof tss_a;
    tss_b = (struct tss){ .esp0 = STACK_TSS, .ss0 = K_DATA, .cr3 = (uint32_t)directory, .eip = (uint32_t)hop, .eflags = 2 };
    tss_b.esp = STACK_B;
    tss_b.cs = K_CODE;
    tss_b.es = tss_b.ss = tss_b.ds = tss_b.fs = tss_b.gs = K_DATA;
    tss_b.bitmap_base = sizeof tss_b;
    tss_c = tss_b;
    tss_c.esp = STACK_C;
    tss_16 = (struct tss_16){ .sp0 = STACK_TSS, .ss0 = K_DATA, .ip = LOW, .flags = 2, .sp = STACK_B };
    tss_16.cs = K_CODE_16;
    tss_16.es = tss_16.ss = tss_16.ds = K_DATA;
    for (char *from = (char *)low_begin, *to = (char *)LOW; from < low_end;)
        *to++ = *from++;
    for (uint32_t i = 0; i < sizeof tops / sizeof *tops; i++)
        for (uint32_t *word = (uint32_t *)(uint32_t)tops[i] - 64; word < (uint32_t *)(uint32_t)tops[i]; word++)
            *word = 0;
    load_pages();
    reload();
}

/* ---- experiments */

struct start ring_0(const void *snippet)
{
    return (struct start){ .ds = K_DATA, .es = K_DATA, .eip = (uint32_t)snippet, .cs = K_CODE, .eflags = 2,
                           .esp = STACK_0, .ss = K_DATA };
}

struct start ring_3(const void *snippet)
{
    return (struct start){ .ds = U_DATA, .es = U_DATA, .eip = (uint32_t)snippet, .cs = U_CODE, .eflags = 2,
                           .esp = STACK_3, .ss = U_DATA };
}

void record(const struct frame *frame)
{
    uint32_t at = (uint32_t)frame->pushed;

    after = (struct outcome){ .vector = frame->vector, .ds = frame->ds & 0xffff, .es = frame->es & 0xffff };
    after.fs = frame->fs & 0xffff;
    after.gs = frame->gs & 0xffff;
    for (int i = 0; i < 8; i++)
        after.general[i] = (&frame->edi)[i];
    asm volatile("movl %%cr0, %0" : "=r"(after.cr0));
    asm volatile("movl %%cr2, %0" : "=r"(after.cr2));
    for (uint32_t i = 0; i < SELECTORS / 8; i++)
        after.gdt[i] = gdt[i];
    /* Which stack it is, and so where it ends. */
    for (uint32_t i = 0; i < sizeof tops / sizeof *tops; i++)
        if (at < tops[i] && at + sizeof after.stack >= tops[i])
            after.words = (tops[i] - at + 3) / 4;
    for (uint32_t i = 0; i < after.words; i++)
        after.stack[i] = frame->pushed[i];
}

bool has_error_code(uint32_t vector)
{
    return vector < 32 && (0x27d00 >> vector & 1);
}

/* RF and EXT of what was pushed last are told in a line of their own. */
static void tell_hidden_bits(void)
{
    bool error = has_error_code(after.vector);
    uint32_t *flags = &after.stack[error + 2];
    uint32_t rf = *flags & RF, ext = error && after.vector != 14 ? after.stack[0] & 1 : 0;

    if (after.vector >= 32 || after.words < error + 3u)
        return;
    *flags &= ~rf;
    after.stack[0] &= ~ext;
    say(" (rf %x ext %x)", rf != 0, ext);
}

void experiment(const struct start *start, const char *name, ...)
{
    va_list arguments;

    va_start(arguments, name);
    print(name, arguments);
    va_end(arguments);
    begin(start);
    fill_gdt();
    reload();
    say(": %2x ds %x es %x fs %x gs %x", after.vector, after.ds, after.es, after.fs, after.gs);
    if (after.vector == 14)
        say(" cr2 %x", after.cr2);
    say(":");
    tell_hidden_bits();
    for (uint32_t i = 0; i < after.words; i++)
        say(" %8x", after.stack[i]);
    say("\n");
}

void main(void)
{
    asm volatile("outb %0, %w1" : : "a"((uint8_t)0xff), "Nd"(PIC_MASK));
    fresh();
    segments();
    transfers();
    gates();
    doubles();
    virtual_8086();
    tasks();
    part("end");
}
