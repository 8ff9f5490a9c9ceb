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

int open(const char *path, int flags)
{
    return syscall(SYS_open, (uint32_t)path, flags, 0);
}

int close(int file)
{
    return syscall(SYS_close, file, 0, 0);
}

int dup(int file, int to)
{
    return syscall(SYS_dup, file, to, 0);
}

int pipe(int files[2])
{
    return syscall(SYS_pipe, (uint32_t)files, 0, 0);
}

int seek(int file, int offset, int whence)
{
    return syscall(SYS_seek, file, offset, whence);
}

int stat(const char *path, struct file_status *status)
{
    return syscall(SYS_stat, (uint32_t)path, (uint32_t)status, 0);
}

int fstat(int file, struct file_status *status)
{
    return syscall(SYS_fstat, file, (uint32_t)status, 0);
}

int readdir(int file, struct directory_entry *entry)
{
    return syscall(SYS_readdir, file, (uint32_t)entry, 0);
}

int mkdir(const char *path)
{
    return syscall(SYS_mkdir, (uint32_t)path, 0, 0);
}

int unlink(const char *path)
{
    return syscall(SYS_unlink, (uint32_t)path, 0, 0);
}

int rename(const char *from, const char *to)
{
    return syscall(SYS_rename, (uint32_t)from, (uint32_t)to, 0);
}

int chdir(const char *path)
{
    return syscall(SYS_chdir, (uint32_t)path, 0, 0);
}

int sync(void)
{
    return syscall(SYS_sync, 0, 0, 0);
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

/* A program whose output nobody reads any more has nothing left to do. */
static void print(int file, const char *format, va_list arguments)
{
    char text[512];
    int length = vsnprintf(text, sizeof text, format, arguments);

    if (write(file, text, length) == -E_PIPE)
        exit(1);
}

void printf(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    print(1, format, arguments);
    va_end(arguments);
}

void complain(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    print(2, format, arguments);
    va_end(arguments);
}

int read_line(struct reader *r, char *line, int size)
{
    int n = 0;

    while (n + 1 < size) {
        if (r->next == r->length) {
            r->next = 0;
            if ((r->length = read(r->file, r->buffer, sizeof r->buffer)) <= 0) {
                if (r->length < 0)
                    return r->length;
                break;
            }
        }
        if ((line[n++] = r->buffer[r->next++]) == '\n')
            break;
    }
    line[n] = 0;
    return n;
}

int open_or_complain(const char *program, const char *path, int flags)
{
    int file = open(path, flags);

    if (file < 0)
        complain("%s: %s: %s\n", program, path, error_text(file));
    return file;
}

const char *base_name(const char *path)
{
    const char *base = path;

    for (; *path; path++)
        if (*path == '/')
            base = path + 1;
    return base;
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
        [E_FILES] = "too many open files",
        [E_PIPE] = "nobody reads",
        [E_EXISTS] = "exists already",
        [E_NOTDIRECTORY] = "not a directory",
        [E_DIRECTORY] = "is a directory",
        [E_NOTEMPTY] = "not empty",
        [E_READONLY] = "read-only",
        [E_NOSPACE] = "no space",
        [E_IO] = "disk error",
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
