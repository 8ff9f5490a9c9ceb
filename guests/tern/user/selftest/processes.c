/* Checks of processes: fork, exec, wait, kill, and what the kernel says about them. */
#include "selftest.h"

static int seven(void) { return 7; }
static int forever(void) { for (;;) sleep(1000); return 0; }
static int spin(void) { for (;;) __asm__ volatile(""); return 0; }
static int kill_self(void) { kill(getpid()); return 1; }
static int no_child(void) { int status; return wait(-1, &status, 0) == -E_PROCESS; }

CHECK(fork_returns_twice)
{
    int parent = getpid(), pid = fork();

    if (pid == 0)
        exit(getpid() != parent && getpid() > 0);
    HOLDS(pid > 0 && pid != parent);
    HOLDS(status_of(pid) == 1);
    return NULL;
}

CHECK(exit_status_is_a_byte)
{
    for (int status = 0; status < 0x300; status += 0x55) {
        int pid = fork();
        if (pid == 0)
            exit(status);
        HOLDS(status_of(pid) == (status & 0xff));
    }
    return NULL;
}

CHECK(wait_finds_every_child)
{
    int pids[8], status;
    uint32_t seen = 0;

    for (int i = 0; i < 8; i++)
        if ((pids[i] = fork()) == 0)
            exit(i);
    for (int i = 0; i < 8; i++) {
        int pid = wait(-1, &status, 0);
        HOLDS(status >= 0 && status < 8 && pids[status] == pid);
        seen |= 1 << status;
    }
    HOLDS(seen == 0xff);
    HOLDS(wait(-1, &status, 0) == -E_PROCESS);
    return NULL;
}

CHECK(wait_can_choose)
{
    int first = child(seven), second = child(seven), status = 0;

    HOLDS(wait(second, &status, 0) == second && status == 7);
    HOLDS(wait(second, &status, 0) == -E_PROCESS);
    HOLDS(wait(first, &status, 0) == first && status == 7);
    HOLDS(wait(getpid(), &status, 0) == -E_PROCESS);
    return NULL;
}

CHECK(wait_need_not_hang)
{
    int pid = child(forever), status;

    HOLDS(wait(pid, &status, WAIT_NOHANG) == 0);
    HOLDS(kill(pid) == 0);
    HOLDS(status_of(pid) == STATUS_KILLED);
    return NULL;
}

CHECK(children_do_not_inherit_children)
{
    int pid = child(forever), other = child(no_child);

    HOLDS(status_of(other) == 1);
    kill(pid);
    HOLDS(status_of(pid) == STATUS_KILLED);
    return NULL;
}

CHECK(fork_has_a_limit)
{
    int pids[70], count = 0, error = 0;

    while (count < 70 && (error = pids[count] = child(forever)) > 0)
        count++;
    for (int i = 0; i < count; i++)
        kill(pids[i]);
    for (int i = 0; i < count; i++)
        HOLDS(status_of(pids[i]) == STATUS_KILLED);
    HOLDS(error == -E_LIMIT || error == -E_MEMORY);
    HOLDS(status_of_child(seven) == 7);
    return NULL;
}

CHECK(fork_storm)
{
    for (int i = 0; i < 100; i++)
        HOLDS(status_of_child(seven) == 7);
    return NULL;
}

CHECK(kill_a_process_that_spins)
{
    int pid = child(spin);

    sleep(20);
    HOLDS(kill(pid) == 0);
    HOLDS(status_of(pid) == STATUS_KILLED);
    HOLDS(kill(pid) == -E_PROCESS);
    return NULL;
}

CHECK(kill_oneself)
{
    HOLDS(status_of_child(kill_self) == STATUS_KILLED);
    return NULL;
}

CHECK(kill_knows_whom_not_to_kill)
{
    HOLDS(kill(1) == -E_INVALID);
    HOLDS(kill(0) == -E_PROCESS);
    HOLDS(kill(0x7fffffff) == -E_PROCESS);
    HOLDS(kill(-0x7fffffff) == -E_PROCESS);
    return NULL;
}

CHECK(kill_a_group)
{
    int first = child(forever), second = child(forever);

    HOLDS(setgroup(first, first) == 0 && setgroup(second, first) == 0);
    HOLDS(kill(-first) == 0);
    HOLDS(status_of(first) == STATUS_KILLED && status_of(second) == STATUS_KILLED);
    return NULL;
}

CHECK(setgroup_is_for_children)
{
    HOLDS(setgroup(1, 1) == -E_PROCESS);
    HOLDS(setgroup(0x7fffffff, 0) == -E_PROCESS);
    return NULL;
}

static int exec_arguments(void)
{
    char *const words[] = {"selftest", "--arguments", "", "two words", NULL};

    exec("/bin/selftest", words);
    return 1;
}

CHECK(exec_passes_arguments)
{
    HOLDS(status_of_child(exec_arguments) == 42);
    return NULL;
}

CHECK(exec_that_fails_changes_nothing)
{
    static char huge[5000];
    char *const words[] = {"x", NULL}, *const too_large[] = {"x", huge, NULL};

    memset(huge, 'a', sizeof huge - 1);
    HOLDS(exec("nosuch", words) == -E_NOTFOUND);
    HOLDS(exec("", words) == -E_NOTFOUND);
    HOLDS(exec("/bin/", words) == -E_FORMAT);
    HOLDS(exec("/etc/motd", words) == -E_FORMAT);
    HOLDS(exec("/dev/zero", words) == -E_FORMAT);
    HOLDS(exec("/etc/motd/x", words) == -E_NOTDIRECTORY);
    HOLDS(exec("echo", too_large) == -E_TOOBIG);
    HOLDS(exec(huge, words) == -E_NOTFOUND);
    return NULL;
}

static int exec_write(void)
{
    static char number[4];
    char *const words[] = {"selftest", "--write", number, NULL};
    int ends[2];

    if (pipe(ends) != 0)
        return 1;
    snprintf(number, sizeof number, "%d", ends[1]);
    exec("selftest", words);
    return 1;
}

CHECK(files_stay_open_across_exec)
{
    HOLDS(status_of_child(exec_write) == 42);
    return NULL;
}

/* The processor is taken away from who does not give it. */
CHECK(preemption)
{
    int first = child(spin), second = child(spin);

    for (int i = 0; i < 5; i++)
        HOLDS(status_of_child(seven) == 7);
    kill(first);
    kill(second);
    HOLDS(status_of(first) == STATUS_KILLED && status_of(second) == STATUS_KILLED);
    return NULL;
}

CHECK(process_info_tells_the_truth)
{
    struct process_info p;
    bool found = false;

    for (int i = 0; process_info(i, &p) == 0; i++) {
        HOLDS(p.pid != 1 || p.parent == 0);
        if (p.pid != getpid())
            continue;
        found = true;
        HOLDS(p.state == STATE_RUNNING && p.pages > 0 && strcmp(p.name, "selftest") == 0);
    }
    HOLDS(found);
    HOLDS(process_info(-1, &p) == -E_PROCESS || process_info(1000, &p) == -E_PROCESS);
    return NULL;
}

CHECK(unknown_system_calls)
{
    HOLDS(syscall(0, 0, 0, 0) == -E_INVALID);
    HOLDS(syscall(1000, 0, 0, 0) == -E_INVALID);
    HOLDS(syscall(-1, 0, 0, 0) == -E_INVALID);
    return NULL;
}

CHECK(system_calls_preserve_registers)
{
    uint32_t result, si = 0x11111111, di = 0x22222222, b = 3, c = 4, d = 5;

    __asm__ volatile("int $0x80" : "=a"(result), "+S"(si), "+D"(di), "+b"(b), "+c"(c), "+d"(d) : "a"(SYS_getpid));
    HOLDS(result == (uint32_t)getpid());
    HOLDS(si == 0x11111111 && di == 0x22222222 && b == 3 && c == 4 && d == 5);
    return NULL;
}
