/*
 * Reading order 18. Processes: their life, their sleep, and who runs next.
 *
 * Interrupt handlers only ever turn SLEEPING into RUNNABLE and set `killed` and `reschedule`. All
 * other changes are made by the running process, in the kernel, with nobody in between.
 */
#include "cpu.h"
#include "kernel.h"

/* What switch_stack() expects on the stack of a process that does not run. */
struct switch_frame {
    uint32_t gs, fs, edi, esi, ebx, ebp, eip;
};

#define STACK_END 0x57ac4e9d /* the lowest word of a kernel stack; lost if the stack overflowed */

static struct process idle = {.state = STATE_RUNNING, .name = "idle"}; /* pid 0, on the boot stack */
struct process processes[MAX_PROCESSES];
static int next_pid = 1;

struct process *current = &idle;
bool reschedule; /* somebody else should run, at the next return to ring 3 */

#define FOR_EACH(p) for (struct process *p = processes; p < processes + MAX_PROCESSES; p++)

static struct process *find(int pid)
{
    FOR_EACH (p)
        if (p->state != STATE_UNUSED && p->pid == pid && pid > 0)
            return p;
    return NULL;
}

/* The user's registers are always at the top of the kernel stack: ring 3 is left with it empty. */
struct trap_frame *process_frame(struct process *p)
{
    return (struct trap_frame *)(p->stack + KERNEL_STACK_SIZE) - 1;
}

/* ---- birth ---- */

/* A process with a number and a kernel stack and nothing else. Returns 0 or an error. */
static int create(struct process **created)
{
    FOR_EACH (p) {
        if (p->state != STATE_UNUSED)
            continue;
        uint32_t frame = frame_allocate_zeroed();
        if (!frame)
            return -E_MEMORY;
        memset(p, 0, sizeof *p);
        p->state = STATE_NEW;
        p->pid = next_pid++;
        p->stack = to_virtual(frame);
        *(uint32_t *)p->stack = STACK_END;
        *created = p;
        return 0;
    }
    return -E_LIMIT;
}

/* Lay the stack out so that the first switch to p returns to ring 3 with process_frame(p). */
static void make_runnable(struct process *p)
{
    struct switch_frame *s = (struct switch_frame *)process_frame(p) - 1;

    __asm__("movl %%fs, %0" : "=r"(s->fs));
    __asm__("movl %%gs, %0" : "=r"(s->gs));
    s->eip = (uint32_t)trap_return;
    p->saved_esp = (uint32_t)s;
    p->saved_depth = 0;
    p->state = STATE_RUNNABLE;
}

/* A process without memory of its own, number 0, which runs a function of the kernel for ever. */
void process_thread(const char *name, void (*run)(void))
{
    struct process *p;

    if (create(&p) < 0)
        panic("cannot start thread %s", name);
    next_pid--;
    p->pid = 0;
    strlcpy(p->name, name, sizeof p->name);
    make_runnable(p);
    ((struct switch_frame *)p->saved_esp)->eip = (uint32_t)run;
}

static void discard(struct process *p)
{
    frame_release(to_physical(p->stack));
    p->state = STATE_UNUSED;
}

void process_init(void)
{
    static char arguments[sizeof options.init + sizeof options.run];
    struct process *p;
    uint32_t name = strlen(options.init) + 1, run = strlen(options.run) + 1;

    memcpy(arguments, options.init, name);
    memcpy(arguments + name, options.run, run);
    if (create(&p) < 0 || files_console(p) < 0 || exec(p, options.init, arguments, run > 1 ? name + run : name) < 0)
        panic("cannot run init=%s", options.init);
    p->group = p->pid;
    make_runnable(p);
}

int process_fork(void)
{
    struct process *p;
    int error = create(&p);

    if (error)
        return error;
    if (!space_copy(&p->space, &current->space)) {
        discard(p);
        return -E_MEMORY;
    }
    strlcpy(p->name, current->name, sizeof p->name);
    p->parent = current;
    p->group = current->group;
    files_inherit(p, current);
    fpu_inherit(p);
    *process_frame(p) = *process_frame(current);
    process_frame(p)->eax = 0;
    make_runnable(p);
    return p->pid;
}

/* ---- the processor ---- */

/* Round robin: the next after the last one that ran; the idle loop if nobody wants to. */
static struct process *pick(void)
{
    static struct process *last = processes;

    for (int i = 0; i < MAX_PROCESSES; i++) {
        if (++last == processes + MAX_PROCESSES)
            last = processes;
        if (last->state == STATE_RUNNABLE)
            return last;
    }
    return &idle;
}

/*
 * Give the processor away. Must hold: interrupts off, current->state says why. Returns when somebody
 * gives it back. The idle loop, threads and the dead have no memory of their own and stay in whichever
 * page directory is loaded; that is safe because no directory is freed while it is loaded
 * (process_exit).
 */
static void schedule(void)
{
    struct process *previous = current, *next = pick();

    assert(interrupts_depth > 0);
    assert(previous == &idle || *(uint32_t *)previous->stack == STACK_END);
    reschedule = false;
    next->state = STATE_RUNNING;
    if (next == previous)
        return;
    current = next;
    previous->saved_depth = interrupts_depth;
    interrupts_depth = next->saved_depth;
    if (next != &idle) {
        set_kernel_stack(next->stack + KERNEL_STACK_SIZE);
        if (next->space.directory) {
            load_directory(next->space.directory);
            fpu_switch(next);
        }
    }
    switch_stack(&previous->saved_esp, next->saved_esp);
}

void process_yield(void)
{
    interrupts_off();
    current->state = STATE_RUNNABLE;
    schedule();
    interrupts_on();
}

/* The last thing before a return to ring 3, or to the idle loop, where no process is in the kernel. */
void process_leave_kernel(void)
{
    if (reschedule)
        process_yield();
    if (current->killed)
        process_exit(current->killed);
}

/* An interrupt that makes somebody runnable leaves for him from trap(), and comes back here later. */
void process_idle(void)
{
    reschedule = true;
    interrupts_on();
    for (;;)
        __asm__ volatile("sti; hlt");
}

/* From the timer's interrupt. */
void process_tick(void)
{
    current->ticks++;
    reschedule = true;
    FOR_EACH (p)
        if (p->state == STATE_SLEEPING && p->wake_tick && (int32_t)(ticks - p->wake_tick) >= 0)
            p->state = STATE_RUNNABLE;
}

/* ---- sleep ---- */

/*
 * Wait for wakeup(channel), or for being killed, or for nothing: the caller looks again whether it
 * has to wait. Must hold: interrupts have been off since it looked, if what it waits for comes from
 * an interrupt.
 */
void sleep_on(const void *channel)
{
    if (current->killed)
        process_yield();
    else
        wait_on(channel);
}

/* The same for what will surely come, and soon: being killed does not shorten it. */
void wait_on(const void *channel)
{
    interrupts_off();
    current->channel = channel;
    current->state = STATE_SLEEPING;
    schedule();
    current->channel = NULL;
    interrupts_on();
}

/* Not the idle loop, which must always be there to run, and is also what boots. */
bool process_may_sleep(void)
{
    return current != &idle;
}

void sleep_ticks(uint32_t n)
{
    uint32_t until = ticks + n;

    interrupts_off();
    while ((int32_t)(ticks - until) < 0 && !current->killed) {
        current->wake_tick = until ? until : 1;
        sleep_on(NULL);
    }
    current->wake_tick = 0;
    interrupts_on();
}

/* Also from interrupts. */
void wakeup(const void *channel)
{
    FOR_EACH (p)
        if (p->state == STATE_SLEEPING && p->channel == channel)
            p->state = STATE_RUNNABLE;
    if (current == &idle)
        reschedule = true;
}

/* ---- death ---- */

/* What is left, the zombie, waits for its parent. Orphans are left to process 1. */
void process_exit(int status)
{
    struct process *init = find(1);

    if (current == init) {
        ternfs_sync();
        kprintf("init exited with status %d", status);
        power_off(status > 0xff ? PANIC_STATUS : status);
    }
    files_close_all(current);
    fpu_forget(current);
    load_directory(kernel_directory);
    space_destroy(&current->space);
    FOR_EACH (p)
        if (p->state != STATE_UNUSED && p->parent == current)
            p->parent = init;
    current->exit_status = status;
    interrupts_off();
    current->state = STATE_ZOMBIE;
    wakeup(current->parent);
    wakeup(init); /* orphans may be zombies already */
    schedule();
    panic("a zombie walks");
}

/*
 * Wait for child pid (-1: any) to exit, and bury it. Returns its pid; 0 if none has exited and we do
 * not want to hang; or an error.
 */
int process_wait(int pid, int *status, bool hang)
{
    for (;;) {
        bool found = false;
        FOR_EACH (p) {
            if (p->state == STATE_UNUSED || p->parent != current || (pid != -1 && p->pid != pid))
                continue;
            found = true;
            if (p->state == STATE_ZOMBIE) {
                *status = p->exit_status;
                discard(p);
                return p->pid;
            }
        }
        if (!found)
            return -E_PROCESS;
        if (!hang)
            return 0;
        if (current->killed)
            return -E_INTERRUPTED;
        sleep_on(current);
    }
}

/* The victim exits by itself, when it is about to return to ring 3. */
static void condemn(struct process *p, int status)
{
    if (!p->killed)
        p->killed = status;
    if (p->state == STATE_SLEEPING)
        p->state = STATE_RUNNABLE;
    if (current == &idle)
        reschedule = true;
}

int process_kill(int pid, int status)
{
    struct process *p = find(pid);

    if (!p || p->state == STATE_ZOMBIE)
        return -E_PROCESS;
    if (pid == 1)
        return -E_INVALID;
    condemn(p, status);
    return 0;
}

/* Also from interrupts. */
int process_kill_group(int group, int status)
{
    int result = -E_PROCESS;

    FOR_EACH (p)
        if (p->state != STATE_UNUSED && p->state != STATE_ZOMBIE && p->group == group && p->pid > 1) {
            condemn(p, status);
            result = 0;
        }
    return result;
}

/* ---- facts ---- */

int process_set_group(int pid, int group)
{
    struct process *p = pid ? find(pid) : current;

    if (!p || (p != current && p->parent != current))
        return -E_PROCESS;
    p->group = group ? group : p->pid;
    return 0;
}

/* The index-th process in the table; an error behind the last. */
int process_info(int index, struct process_info *info)
{
    FOR_EACH (p) {
        if (p->state == STATE_UNUSED || index-- > 0)
            continue;
        memset(info, 0, sizeof *info);
        info->pid = p->pid;
        info->parent = p->parent ? p->parent->pid : 0;
        info->group = p->group;
        info->state = p->state;
        info->pages = p->space.pages;
        info->milliseconds = p->ticks * TICK_MS;
        strlcpy(info->name, p->name, sizeof info->name);
        return 0;
    }
    return -E_PROCESS;
}
