/* Checks of the FPU: its registers are every process's own. This file is compiled with floating point. */
#include "selftest.h"

/* Does /proc/cpu say so? */
static bool fpu_is(const char *kind)
{
    char text[64] = "";
    int file = open("/proc/cpu", OPEN_READ);

    read(file, text, sizeof text - 1);
    close(file);
    return strncmp(text, kind, strlen(kind)) == 0;
}

#define NEEDS_FPU               \
    if (fpu_is("fpu: none"))    \
        return SKIPPED "no FPU"

/* By Newton's method: x = (x + a / x) / 2. */
static double root(double a)
{
    double x = a;

    for (int i = 0; i < 40; i++)
        x = (x + a / x) / 2;
    return x;
}

CHECK(fpu_computes)
{
    NEEDS_FPU;
    HOLDS((int)(root(2) * 1e9) == 1414213562);
    HOLDS((int)(root(1e6) * 1e3) == 1000000);
    return NULL;
}

/* Fill all eight registers with n, n + 1 ...; wait in some way; take them out again. */
static bool registers_survive(int n, void (*wait)(void))
{
    int out[8];

    for (int i = 0; i < 8; i++) {
        int value = n + i;
        __asm__ volatile("fildl %0" : : "m"(value));
    }
    wait();
    for (int i = 7; i >= 0; i--)
        __asm__ volatile("fistpl %0" : "=m"(out[i]));
    for (int i = 0; i < 8; i++)
        if (out[i] != n + i)
            return false;
    return true;
}

static void by_yield(void) { yield(); }
static void by_sleep(void) { sleep(1); }

static void by_spinning(void)
{
    uint32_t start = uptime();

    while (uptime() - start < 30)
        ;
}

static const char *registers_survive_among(void (*wait)(void), int rounds)
{
    int pids[3];

    for (int c = 0; c < 3; c++) {
        if ((pids[c] = fork()) > 0)
            continue;
        for (int i = 0; i < rounds; i++)
            if (!registers_survive(c * 1000000 + i, wait))
                exit(1);
        exit(0);
    }
    for (int c = 0; c < 3; c++)
        HOLDS(status_of(pids[c]) == 0);
    return NULL;
}

CHECK(fpu_registers_survive_yield)
{
    NEEDS_FPU;
    return registers_survive_among(by_yield, 50);
}

CHECK(fpu_registers_survive_sleep)
{
    NEEDS_FPU;
    return registers_survive_among(by_sleep, 5);
}

CHECK(fpu_registers_survive_preemption)
{
    NEEDS_FPU;
    return registers_survive_among(by_spinning, 3);
}

CHECK(fpu_registers_survive_others_that_use_none)
{
    NEEDS_FPU;
    int pid = fork();
    if (pid == 0)
        for (;;)
            yield();
    bool survived = registers_survive(77, by_sleep) && registers_survive(78, by_yield);
    kill(pid);
    HOLDS(status_of(pid) == STATUS_KILLED && survived);
    return NULL;
}

CHECK(fpu_registers_are_inherited)
{
    int value = 12345, mine = 0;

    NEEDS_FPU;
    __asm__ volatile("fildl %0" : : "m"(value));
    int pid = fork();
    if (pid == 0) {
        __asm__ volatile("fistpl %0" : "=m"(mine));
        exit(mine == 12345);
    }
    HOLDS(status_of(pid) == 1);
    __asm__ volatile("fistpl %0" : "=m"(mine));
    HOLDS(mine == 12345);
    return NULL;
}

static uint16_t control_word(void)
{
    uint16_t word;

    __asm__ volatile("fnstcw %0" : "=m"(word));
    return word;
}

static void set_control_word(uint16_t word) { __asm__ volatile("fldcw %0" : : "m"(word)); }

/* Round down, in one process; to the nearest in the other. */
CHECK(fpu_control_is_its_own)
{
    NEEDS_FPU;
    int pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 20; i++) {
            set_control_word(0x077f);
            yield();
            if (control_word() != 0x077f)
                exit(1);
        }
        exit(0);
    }
    for (int i = 0; i < 20; i++) {
        yield();
        HOLDS(control_word() == 0x037f);
    }
    HOLDS(status_of(pid) == 0);
    return NULL;
}

/* A new program finds the FPU as FNINIT leaves it: dice comes out as always. */
CHECK(fpu_begins_anew_with_a_program)
{
    static char *const words[] = {"dice", "100", NULL};
    char text[2][128];

    NEEDS_FPU;
    for (int i = 0; i < 2; i++) {
        int ends[2];
        HOLDS(pipe(ends) == 0);
        int pid = fork();
        if (pid == 0) {
            if (i == 1)
                set_control_word(0x0c7f); /* chop, single precision */
            dup(ends[1], 1);
            exec("dice", words);
        }
        close(ends[1]);
        memset(text[i], 0, sizeof text[i]);
        HOLDS(read(ends[0], text[i], sizeof text[i] - 1) > 0 && status_of(pid) == 0);
        close(ends[0]);
    }
    HOLDS(strcmp(text[0], text[1]) == 0);
    return NULL;
}

static int leave_error(void)
{
    static const uint16_t control = 0x037b;

    __asm__ volatile("fninit\n\tfldcw %0\n\tfld1\n\tfldz\n\tfdivrp" : : "m"(control));
    return 0; /* before anything asks for it */
}

CHECK(fpu_errors_stay_with_their_owner)
{
    NEEDS_FPU;
    HOLDS(status_of_child(leave_error) == 0);
    HOLDS((int)(root(9) * 1e6) == 3000000);
    return NULL;
}

static bool sse_survives(int n)
{
    uint32_t in[4] = {n, n + 1, n + 2, n + 3}, out[4];

    __asm__ volatile("movups %0, %%xmm7" : : "m"(in));
    yield();
    __asm__ volatile("movups %%xmm7, %0" : "=m"(out));
    return memcmp(in, out, sizeof in) == 0;
}

CHECK(sse_registers_survive)
{
    if (!fpu_is("fpu: fxsave"))
        return SKIPPED "no fxsr option";
    int pid = fork();
    for (int i = 0; i < 50; i++)
        if (!sse_survives(pid == 0 ? i : 1000 + i))
            return "SSE registers survive";
    if (pid == 0)
        exit(0);
    HOLDS(status_of(pid) == 0);
    return NULL;
}
