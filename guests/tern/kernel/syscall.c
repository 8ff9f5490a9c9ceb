/*
 * Reading order 28. System calls. EAX holds the number, EBX, ECX and EDX the arguments; EAX gets the
 * result (README.md). Pointers are checked here and nowhere below.
 */
#include "kernel.h"

/* A program's memory, ready for the kernel to use, or NULL. */
static void *user_memory(uint32_t address, uint32_t size, bool write)
{
    return space_prepare(&current->space, address, size, write) ? (void *)address : NULL;
}

/* Copy a path in. Returns 0 or an error. */
static int user_path(uint32_t address, char path[PATH_SIZE])
{
    int length = space_string(&current->space, address, path, PATH_SIZE);

    if (length == -E_TOOBIG || length == 0)
        return -E_NOTFOUND; /* no file has such a long path, none has an empty one */
    return length < 0 ? length : 0;
}

/* Gather the strings of argv[] into one page; returns their size, or an error. */
static int copy_arguments(uint32_t argv, char *page)
{
    int used = 0;

    for (;; argv += sizeof(uint32_t)) {
        const uint32_t *pointer = user_memory(argv, sizeof *pointer, false);
        if (!pointer)
            return -E_FAULT;
        if (!*pointer)
            return used;
        int length = space_string(&current->space, *pointer, page + used, PAGE_SIZE - used);
        if (length < 0)
            return length;
        used += length + 1;
    }
}

static int sys_exec(struct trap_frame *f)
{
    char name[PATH_SIZE];
    uint32_t page = frame_allocate();

    if (!page)
        return -E_MEMORY;
    int result = user_path(f->ebx, name);
    if (result >= 0)
        result = copy_arguments(f->ecx, to_virtual(page));
    if (result >= 0)
        result = exec(current, name, to_virtual(page), result);
    frame_release(page);
    return result;
}

static int sys_wait(struct trap_frame *f)
{
    int *status = user_memory(f->ecx, sizeof *status, true), value = 0;

    if (!status)
        return -E_FAULT;
    int pid = process_wait(f->ebx, &value, !(f->edx & WAIT_NOHANG));
    if (pid > 0)
        *status = value;
    return pid;
}

static int sys_kill(struct trap_frame *f)
{
    int pid = f->ebx;

    return pid >= 0 ? process_kill(pid, STATUS_KILLED) : process_kill_group(-pid, STATUS_KILLED);
}

static int sys_sleep(struct trap_frame *f)
{
    sleep_ticks(f->ebx / TICK_MS + (f->ebx % TICK_MS != 0));
    return 0;
}

static int sys_yield(struct trap_frame *f)
{
    reschedule = true;
    return 0;
}

static int sys_read(struct trap_frame *f)
{
    char *buffer = user_memory(f->ecx, f->edx, true);

    return buffer ? files_read(f->ebx, buffer, f->edx) : -E_FAULT;
}

static int sys_write(struct trap_frame *f)
{
    const char *text = user_memory(f->ecx, f->edx, false);

    return text ? files_write(f->ebx, text, f->edx) : -E_FAULT;
}

static int sys_open(struct trap_frame *f)
{
    char path[PATH_SIZE];
    int error = user_path(f->ebx, path);

    return error ? error : files_open(path, f->ecx);
}

static int sys_pipe(struct trap_frame *f)
{
    int *descriptors = user_memory(f->ebx, 2 * sizeof *descriptors, true);

    return descriptors ? files_pipe(descriptors) : -E_FAULT;
}

static int sys_stat(struct trap_frame *f)
{
    struct file_status *status = user_memory(f->ecx, sizeof *status, true);
    char path[PATH_SIZE];
    struct node *node;

    if (!status)
        return -E_FAULT;
    int error = user_path(f->ebx, path);
    if (!error)
        error = node_open(path, &node);
    if (error)
        return error;
    error = node_status(node, status);
    node_release(node);
    return error;
}

static int sys_fstat(struct trap_frame *f)
{
    struct file_status *status = user_memory(f->ecx, sizeof *status, true);

    return status ? files_status(f->ebx, status) : -E_FAULT;
}

static int sys_readdir(struct trap_frame *f)
{
    struct directory_entry *entry = user_memory(f->ecx, sizeof *entry, true);

    return entry ? files_entry(f->ebx, entry) : -E_FAULT;
}

/* Do something with the file that a path in EBX names. */
static int with_path(struct trap_frame *f, int (*act)(const char *path))
{
    char path[PATH_SIZE];
    int error = user_path(f->ebx, path);

    return error ? error : act(path);
}

static int sys_mkdir(struct trap_frame *f) { return with_path(f, node_make_directory); }
static int sys_unlink(struct trap_frame *f) { return with_path(f, node_remove); }
static int sys_chdir(struct trap_frame *f) { return with_path(f, files_chdir); }

static int sys_rename(struct trap_frame *f)
{
    char from[PATH_SIZE], to[PATH_SIZE];
    int error = user_path(f->ebx, from);

    if (!error)
        error = user_path(f->ecx, to);
    return error ? error : node_rename(from, to);
}

static int sys_process_info(struct trap_frame *f)
{
    struct process_info *info = user_memory(f->ecx, sizeof *info, true);

    return info ? process_info(f->ebx, info) : -E_FAULT;
}

static int sys_memory_info(struct trap_frame *f)
{
    struct memory_info *info = user_memory(f->ebx, sizeof *info, true);

    if (!info)
        return -E_FAULT;
    frames_info(info);
    return 0;
}

static int sys_poweroff(struct trap_frame *f)
{
    ternfs_sync();
    power_off(f->ebx & 0xff);
}

/* ---- whose arguments need no check ---- */

static int sys_exit(struct trap_frame *f) { process_exit(f->ebx & 0xff); }
static int sys_fork(struct trap_frame *f) { return process_fork(); }
static int sys_getpid(struct trap_frame *f) { return current->pid; }
static int sys_uptime(struct trap_frame *f) { return ticks * TICK_MS & 0x7fffffff; }
static int sys_sbrk(struct trap_frame *f) { return space_grow(&current->space, f->ebx); }
static int sys_close(struct trap_frame *f) { return files_close(f->ebx); }
static int sys_dup(struct trap_frame *f) { return files_dup(f->ebx, f->ecx); }
static int sys_seek(struct trap_frame *f) { return files_seek(f->ebx, f->ecx, f->edx); }
static int sys_sync(struct trap_frame *f) { return ternfs_sync(); }
static int sys_setgroup(struct trap_frame *f) { return process_set_group(f->ebx, f->ecx); }
static int sys_foreground(struct trap_frame *f) { return console_set_foreground(f->ebx); }

#define ENTRY(name) [SYS_##name] = sys_##name

static int (*const calls[])(struct trap_frame *) = {
    ENTRY(exit), ENTRY(fork), ENTRY(exec), ENTRY(wait), ENTRY(kill), ENTRY(getpid), ENTRY(sleep),
    ENTRY(yield), ENTRY(uptime), ENTRY(sbrk), ENTRY(read), ENTRY(write), ENTRY(setgroup),
    ENTRY(foreground), ENTRY(process_info), ENTRY(memory_info), ENTRY(poweroff), ENTRY(open),
    ENTRY(close), ENTRY(dup), ENTRY(pipe), ENTRY(seek), ENTRY(stat), ENTRY(fstat), ENTRY(readdir),
    ENTRY(mkdir), ENTRY(unlink), ENTRY(rename), ENTRY(chdir), ENTRY(sync),
};

void syscall(struct trap_frame *f)
{
    uint32_t number = f->eax;

    f->eax = number < NELEMENTS(calls) && calls[number] ? calls[number](f) : -E_INVALID;
}
