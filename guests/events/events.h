/*
 * events: a kernel that does, one after the other, what makes a processor check descriptors, change stacks and
 * deliver exceptions, right and wrong, and prints what it finds on the stack afterwards. One line each:
 *
 *     int 50 through type 14 in ring 3: 40 ds 23 es 23 fs 0 gs 0: 00103456 0000001b 00000002 ...
 *
 * The first number is the vector that came; the segment registers are as the handler found them; then follows the
 * stack from its top. What is in parentheses are the bits RF of the EFLAGS that were pushed and EXT of the error
 * code, which QEMU does not always set as the manual says; on the stack they are shown as 0.
 */
#ifndef EVENTS_H
#define EVENTS_H

#include <stdbool.h>
#include <stdint.h>

enum selector {
    K_CODE = 0x08,
    K_DATA = 0x10,
    U_CODE = 0x1b,
    U_DATA = 0x23,
    TSS_A = 0x28,
    TSS_B = 0x30,
    TSS_16 = 0x38,
    LOCAL = 0x40,
    K_CODE_16 = 0x48,
    K_DATA_16 = 0x50,
    U_CODE_16 = 0x5b,
    U_DATA_16 = 0x63,
    CONFORMING = 0x68,
    R1_CODE = 0x71,
    R1_DATA = 0x79,
    EXECUTE_ONLY = 0x80,
    READ_ONLY = 0x88,
    ABSENT_DATA = 0x90,
    ABSENT_CODE = 0x98,
    ABSENT_TSS = 0xa0,
    BUSY_TSS = 0xa8,
    SHORT_TSS = 0xb0,
    GATE = 0xb8,
    GATE_3 = 0xc0, /* with three parameters */
    GATE_16 = 0xc8,
    GATE_R0 = 0xd0,
    GATE_ABSENT = 0xd8,
    GATE_TO_DATA = 0xe0,
    GATE_TO_CONFORMING = 0xe8,
    GATE_TO_R1 = 0xf0,
    GATE_TO_NULL = 0xf8,
    TASK_GATE = 0x100,
    TASK_GATE_BAD = 0x108,
    ABSENT_LOCAL = 0x110,
    INTERRUPT_GATE = 0x118,
    SHORT_CODE = 0x120,
    TSS_C = 0x128,
    ABSENT_U_DATA = 0x133,
    SELECTORS = 0x138, /* the first beyond the table */
    LOCAL_DATA = 0x07,
    LOCAL_CODE = 0x0f,
};

enum {
    STACK_0 = 0x9000, /* tops of stacks, all below 64 KiB */
    STACK_TSS = 0x8000,
    STACK_3 = 0x7000,
    STACK_R1 = 0x6800,
    STACK_B = 0x6000,
    STACK_C = 0x5800,
    LOW = 0x4000, /* where 16-bit code is copied to */
    ABSENT_PAGE = 0x600000,
    READ_ONLY_PAGE = 0x601000,
};

enum { TF = 1 << 8, IF = 1 << 9, IOPL_3 = 3 << 12, NT = 1 << 14, RF = 1 << 16, VM = 1 << 17 };

/* Registers to begin an experiment with; `eip` is a snippet's address. */
struct start {
    uint32_t gs, fs, es, ds, edi, esi, ebp, ebx, edx, ecx, eax, eip, cs, eflags, esp, ss;
    uint32_t v86_es, v86_ds, v86_fs, v86_gs;
};

struct tss {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
    uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, bitmap_base;
    uint8_t bitmap[0x40];
};

struct tss_16 {
    uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt;
};

extern struct tss tss_a, tss_b, tss_c;
extern struct tss_16 tss_16;
extern uint64_t gdt[SELECTORS / 8], idt[256], local[2];
extern uint32_t directory[1024], tables[2][1024];
extern struct { uint16_t limit; uint32_t base; } __attribute__((packed)) gdtr, idtr;
extern struct { uint32_t offset; uint16_t selector; } __attribute__((packed)) far_pointer;
extern const uint16_t selectors[]; /* one of each kind, right and wrong; ends with END */
enum { END = 0xffff };

/* What the last event left behind. */
extern struct outcome {
    uint32_t vector, ds, es, fs, gs, cr0, cr2;
    uint32_t general[8]; /* EDI to EAX, as PUSHA stores them */
    uint64_t gdt[SELECTORS / 8];
    uint32_t words, stack[24];
} after;

/* The machine as every experiment finds it: descriptor tables, TSSs, LDT, TR, pages. */
void fresh(void);
void load_tables(void); /* after gdtr or idtr was changed */
struct start ring_0(const void *snippet);
struct start ring_3(const void *snippet);
/* Begin there, and print what comes of it in a line of that name. */
void experiment(const struct start *, const char *name, ...) __attribute__((format(printf, 2, 3)));

uint64_t descriptor(uint32_t base, uint32_t limit, uint8_t access, uint8_t flags);
uint64_t gate(uint16_t selector, const void *offset, uint8_t kind, uint8_t dpl, uint8_t parameters);
static const uint64_t PRESENT = 1ull << 47;
extern const void *stub(uint8_t vector); /* the usual handler */

bool has_error_code(uint32_t vector);

void part(const char *name);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Snippets: each goes on to int $0x40 where nothing else comes of it. */
extern const char hop[], load_ds[], load_es[], load_fs[], load_gs[], load_ss[], pop_ds[], pop_ss[], lds_far[], lldt[],
    ltr[], jump_far[], call_far[], return_far[], return_far_8[], interrupt_return[], int_50[], undefined[], divide[],
    breakpoint[], overflow[], trap_1[], touch_edi[], store_edi[], iret_here[];
/* 16-bit snippets: offsets from LOW. */
extern const char low_begin[], low_end[], low_hop[], low_int_50[], low_cli[], low_sti[], low_pushf[], low_popf[],
    low_iret[], low_hlt[], low_in[], low_load_ds[], low_undefined[], low_iretl[], low_pushfl[], low_popfl[];
#define LOW_OFFSET(snippet) ((uint32_t)(snippet) - (uint32_t)low_begin)

void segments(void);
void transfers(void);
void gates(void);
void doubles(void);
void virtual_8086(void);
void tasks(void);

#endif
