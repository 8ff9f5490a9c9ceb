/* Checks of memory: heap, stack, copy-on-write, and pointers given to system calls. */
#include "selftest.h"

#define PAGES(n) ((n) * PAGE_SIZE)
#define KERNEL ((void *)0xC0100000)

static int shared = 1;
static char zeros[PAGES(8)];
static const char constant[] = "constant";

static bool all_zero(const char *at, size_t length)
{
    while (length-- > 0)
        if (*at++)
            return false;
    return true;
}

CHECK(bss_is_zero)
{
    HOLDS(all_zero(zeros, sizeof zeros));
    return NULL;
}

CHECK(heap_grows_and_shrinks)
{
    char *at = sbrk(PAGES(20));

    HOLDS(at && all_zero(at, PAGES(20)));
    memset(at, 0x55, PAGES(20));
    HOLDS(sbrk(-PAGES(10)) == at + PAGES(20));
    HOLDS(sbrk(PAGES(10)) == at + PAGES(10));
    HOLDS(at[PAGES(10) - 1] == 0x55);
    HOLDS(all_zero(at + PAGES(10) + PAGE_SIZE, PAGES(9) - PAGE_SIZE));
    return NULL;
}

CHECK(heap_has_limits)
{
    HOLDS(!sbrk(-0x10000000));
    HOLDS(!sbrk(0x7fffffff) || !sbrk(0x7fffffff));
    HOLDS(sbrk(0));
    return NULL;
}

static int touch_given_back(void)
{
    char *at = sbrk(PAGES(4));

    at[PAGES(3)] = 1;
    sbrk(-PAGES(4));
    return at[PAGES(3)];
}

CHECK(heap_given_back_is_gone)
{
    HOLDS(status_of_child(touch_given_back) == (STATUS_FAULT | 14));
    return NULL;
}

CHECK(pages_come_when_touched)
{
    struct memory_info before, after;
    char *at = sbrk(PAGES(1000));

    HOLDS(at);
    memory_info(&before);
    at[PAGES(500)] = 1;
    memory_info(&after);
    HOLDS(after.used - before.used <= 2); /* a page, and perhaps a page table */
    return NULL;
}

CHECK(memory_holds_what_it_is_given)
{
    uint32_t *word = sbrk(PAGES(64)), x = 1;

    HOLDS(word);
    for (int i = 0; i < PAGES(64) / 4; i++)
        word[i] = x = x * 1664525 + 1013904223;
    yield();
    x = 1;
    for (int i = 0; i < PAGES(64) / 4; i++)
        HOLDS(word[i] == (x = x * 1664525 + 1013904223));
    return NULL;
}

CHECK(fork_copies_memory)
{
    int pid = fork();

    if (pid == 0) {
        shared++;
        sleep(20);
        exit(shared);
    }
    HOLDS(shared == 1);
    shared = 10;
    HOLDS(status_of(pid) == 2 && shared == 10);
    return NULL;
}

/* Each generation adds one; none sees what the next has done. */
static int generation(void)
{
    if (++shared == 6)
        return shared;
    int mine = shared, status = status_of_child(generation);
    return shared == mine ? status : 1;
}

CHECK(copies_of_copies)
{
    shared = 1;
    HOLDS(status_of_child(generation) == 6 && shared == 1);
    return NULL;
}

static int read_all(void)
{
    for (size_t i = 0; i < sizeof zeros; i += PAGE_SIZE)
        if (zeros[i] != 'm')
            return 1;
    return 0;
}

CHECK(reading_shares_pages)
{
    struct memory_info before, after;

    memset(zeros, 'm', sizeof zeros);
    memory_info(&before);
    int pid = child(read_all);
    memory_info(&after);
    HOLDS(status_of(pid) == 0);
    HOLDS(after.used - before.used < 8);
    return NULL;
}

static int deep(int depth)
{
    volatile char room[1000];

    room[0] = depth;
    return depth == 0 ? 0 : deep(depth - 1) + (room[0] == (char)depth);
}

CHECK(stack_grows)
{
    HOLDS(deep(200) == 200);
    return NULL;
}

/* The kernel, too, has a program's stack grow: here it writes to a page of it that is not there yet. */
CHECK(stack_grows_for_system_calls)
{
    volatile char room[PAGES(10)];
    int file = open("/etc/motd", OPEN_READ);

    HOLDS(read(file, (char *)room, 100) == 100);
    HOLDS(room[0] == 'T');
    return NULL;
}

static int exhaust(void) { for (;;) *(char *)sbrk(PAGE_SIZE) = 1; return 0; }

CHECK(memory_may_run_out)
{
    struct memory_info m;

    memory_info(&m);
    if (m.free > 8192)
        return SKIPPED "there is too much of it";
    HOLDS(status_of_child(exhaust) == (STATUS_FAULT | 14));
    return NULL;
}

CHECK(memory_info_adds_up)
{
    struct memory_info m;

    HOLDS(memory_info(&m) == 0);
    HOLDS(m.total == m.reserved + m.used + m.free);
    return NULL;
}

CHECK(bad_pointers_are_errors)
{
    static void *const bad[] = {NULL, KERNEL, (void *)0xfffffffc, (void *)0x30000000};
    char *word[] = {"x", NULL};

    for (int i = 0; i < 4; i++) {
        void *p = bad[i];
        HOLDS(write(1, p, 4) == -E_FAULT && read(0, p, 4) == -E_FAULT);
        HOLDS(wait(-1, p, WAIT_NOHANG) == -E_FAULT);
        HOLDS(exec(p, word) == -E_FAULT && exec("echo", p) == -E_FAULT);
        HOLDS(open(p, OPEN_READ) == -E_FAULT && stat(p, p) == -E_FAULT && stat("/", p) == -E_FAULT);
        HOLDS(fstat(0, p) == -E_FAULT && pipe(p) == -E_FAULT && readdir(0, p) == -E_FAULT);
        HOLDS(mkdir(p) == -E_FAULT && unlink(p) == -E_FAULT && rename(p, "x") == -E_FAULT);
        HOLDS(rename("/etc/motd", p) == -E_FAULT && chdir(p) == -E_FAULT);
        HOLDS(process_info(0, p) == -E_FAULT && memory_info(p) == -E_FAULT);
    }
    return NULL;
}

CHECK(ranges_are_checked_to_their_end)
{
    char *at = sbrk(PAGE_SIZE), *end;
    struct file_status s;

    HOLDS(at);
    end = (char *)(((uint32_t)sbrk(0) + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1u));
    int file = open("/bin/sh", OPEN_READ);
    HOLDS(read(file, end - 10, 10) == 10);
    HOLDS(read(file, end - 10, 11) == -E_FAULT);
    HOLDS(read(file, end - 10, 0xffffffff) == -E_FAULT);
    HOLDS(fstat(file, (struct file_status *)(end - sizeof s + 1)) == -E_FAULT);
    memset(end - 4, 'a', 4);
    HOLDS(open(end - 4, OPEN_READ) == -E_FAULT); /* no NUL before the end */
    return NULL;
}

CHECK(read_only_memory_is_not_written)
{
    int file = open("/bin/sh", OPEN_READ);

    HOLDS(read(file, (char *)constant, 4) == -E_FAULT);
    HOLDS(read(file, (void *)USER_BASE, 4) == -E_FAULT);
    HOLDS(strcmp(constant, "constant") == 0);
    return NULL;
}
