/* System calls and the small library of the programs. */
#include "user.h"

int syscall(int number, uint32_t a, uint32_t b, uint32_t c)
{
    int result;

    __asm__ volatile("int %1"
                     : "=a"(result)
                     : "i"(SYSCALL_VECTOR), "a"(number), "b"(a), "c"(b), "d"(c)
                     : "memory");
    return result;
}

void exit(int status)
{
    for (;;)
        syscall(SYS_exit, status, 0, 0);
}

void poweroff(int status)
{
    for (;;)
        syscall(SYS_poweroff, status, 0, 0);
}

void *sbrk(int bytes)
{
    int before = syscall(SYS_sbrk, bytes, 0, 0);

    /* Addresses of programs may look negative; errors are the few numbers just below 0. */
    return (uint32_t)before >= USER_END ? NULL : (void *)before;
}

int fork(void)
{
    return syscall(SYS_fork, 0, 0, 0);
}

int exec(const char *name, char *const argv[])
{
    return syscall(SYS_exec, (uint32_t)name, (uint32_t)argv, 0);
}

int wait(int pid, int *status, int flags)
{
    return syscall(SYS_wait, pid, (uint32_t)status, flags);
}

int kill(int pid)
{
    return syscall(SYS_kill, pid, 0, 0);
}

int getpid(void)
{
    return syscall(SYS_getpid, 0, 0, 0);
}

int sleep(uint32_t milliseconds)
{
    return syscall(SYS_sleep, milliseconds, 0, 0);
}

int yield(void)
{
    return syscall(SYS_yield, 0, 0, 0);
}

uint32_t uptime(void)
{
    return syscall(SYS_uptime, 0, 0, 0);
}

int read(int file, void *buffer, size_t size)
{
    return syscall(SYS_read, file, (uint32_t)buffer, size);
}

int write(int file, const void *text, size_t size)
{
    return syscall(SYS_write, file, (uint32_t)text, size);
}

int setgroup(int pid, int group)
{
    return syscall(SYS_setgroup, pid, group, 0);
}

int foreground(int group)
{
    return syscall(SYS_foreground, group, 0, 0);
}

int process_info(int index, struct process_info *info)
{
    return syscall(SYS_process_info, index, (uint32_t)info, 0);
}

int memory_info(struct memory_info *info)
{
    return syscall(SYS_memory_info, (uint32_t)info, 0, 0);
}


void printf(const char *format, ...)
{
    char text[512];
    va_list arguments;

    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    write(1, text, length);
}

const char *error_text(int error)
{
    static const char *const texts[] = {
        [E_INVALID] = "invalid argument",
        [E_FAULT] = "bad address",
        [E_MEMORY] = "out of memory",
        [E_PROCESS] = "no such process",
        [E_NOTFOUND] = "not found",
        [E_FORMAT] = "not a program",
        [E_TOOBIG] = "arguments too long",
        [E_BADFILE] = "bad file descriptor",
        [E_BACKGROUND] = "not in the foreground",
        [E_INTERRUPTED] = "interrupted",
        [E_LIMIT] = "too many processes",
    };

    if (error < 0)
        error = -error;
    return error > 0 && error < (int)(sizeof texts / sizeof *texts) ? texts[error] : "unknown error";
}

bool number(const char *text, uint32_t *value)
{
    *value = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return false;
        *value = *value * 10 + *text - '0';
    }
    return true;
}

uint32_t number_or(const char *text, uint32_t otherwise)
{
    uint32_t value;

    return text && number(text, &value) ? value : otherwise;
}
