/*
 * fault KIND ...: do what a program must not. Each kind is done by a child, which the kernel kills.
 * `fault all` does them all.
 */
#include "user.h"

static void do_null(void) { *(volatile int *)0; }
static void do_kernel(void) { *(volatile int *)0xC0100000; }
static void do_write(void) { *(volatile int *)0xC0100000 = 0; }
static void do_code(void) { *(volatile int *)USER_BASE = 0; }
static void do_jump(void) { ((void (*)(void))0x30000000)(); }
static void do_privileged(void) { __asm__ volatile("hlt"); }
static void do_cli(void) { __asm__ volatile("cli"); }
static void do_control(void) { __asm__ volatile("movl %%eax, %%cr3" : : "a"(0)); }
static void do_port(void) { __asm__ volatile("outb %%al, $0xf4" : : "a"(99)); }
static void do_divide(void) { __asm__ volatile("divl %0" : : "r"(0), "a"(1), "d"(0)); }
static void do_opcode(void) { __asm__ volatile(".byte 0x0f, 0x0b"); /* UD2 */ }
static void do_segment(void) { __asm__ volatile("movl %0, %%ds" : : "r"(0x10)); }
static void do_interrupt(void) { __asm__ volatile("int $0x20"); }
static void do_breakpoint(void) { __asm__ volatile("int3"); }
/* 1 / 0, with that error unmasked. */
static void do_fpu(void)
{
    static const uint16_t control = 0x037b;

    __asm__ volatile("fninit\n\tfldcw %0\n\tfld1\n\tfldz\n\tfdivrp\n\tfwait" : : "m"(control));
}

static int do_recurse(int depth)
{
    volatile char room[1024];

    room[0] = depth;
    return depth < 1000000 ? do_recurse(depth + 1) + room[0] : 0;
}

static void do_stack(void) { do_recurse(0); }

/* A bad pointer in a system call is an error, no fault. */
static void do_pointer(void)
{
    printf("write: %s\n", error_text(write(1, (void *)0xC0100000, 16)));
    printf("read: %s\n", error_text(read(0, (void *)USER_BASE, 16)));
    printf("exec: %s\n", error_text(exec((char *)0xFFFFFFF0, NULL)));
    exit(0);
}

static const struct {
    const char *name;
    void (*run)(void);
} kinds[] = {
    {"null", do_null}, {"kernel", do_kernel}, {"write", do_write}, {"code", do_code},
    {"jump", do_jump}, {"stack", do_stack}, {"privileged", do_privileged}, {"cli", do_cli},
    {"control", do_control}, {"port", do_port}, {"divide", do_divide}, {"opcode", do_opcode},
    {"segment", do_segment}, {"interrupt", do_interrupt}, {"breakpoint", do_breakpoint},
    {"fpu", do_fpu}, {"pointer", do_pointer},
};

#define KINDS (int)(sizeof kinds / sizeof *kinds)

/* Returns the status of the child in the way of the shell's $?. */
static int try(int kind)
{
    int status, pid;

    printf("fault: %s\n", kinds[kind].name);
    if ((pid = fork()) == 0) {
        kinds[kind].run();
        printf("fault: %s did no harm\n", kinds[kind].name);
        exit(0);
    }
    wait(pid, &status, 0);
    return status & STATUS_FAULT ? 128 + (status & 0x7f) : status;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        printf("fault: all");
        for (int i = 0; i < KINDS; i++)
            printf(" %s", kinds[i].name);
        printf("\n");
        return 1;
    }
    int result = 0;
    for (int a = 1; a < argc; a++) {
        bool all = strcmp(argv[a], "all") == 0, found = all;
        for (int i = 0; i < KINDS; i++) {
            if (all || strcmp(argv[a], kinds[i].name) == 0) {
                found = true;
                result = try(i);
            }
        }
        if (!found)
            printf("fault: no kind %s\n", argv[a]);
    }
    return result;
}
