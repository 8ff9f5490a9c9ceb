/* What programs can use: system calls as C functions, and a very small library. */
#ifndef USER_H
#define USER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../include/abi.h"
#include "../lib/lib.h"

/* System calls (README.md). Errors come back as -E_... */
int syscall(int number, uint32_t a, uint32_t b, uint32_t c);

#define CALL(name, a, b, c) syscall(SYS_##name, (uint32_t)(a), (uint32_t)(b), (uint32_t)(c))

__attribute__((noreturn)) static inline void exit(int status) { for (;;) CALL(exit, status, 0, 0); }
__attribute__((noreturn)) static inline void poweroff(int status) { for (;;) CALL(poweroff, status, 0, 0); }
static inline int fork(void) { return CALL(fork, 0, 0, 0); }
static inline int exec(const char *path, char *const argv[]) { return CALL(exec, path, argv, 0); }
static inline int wait(int pid, int *status, int flags) { return CALL(wait, pid, status, flags); }
static inline int kill(int pid) { return CALL(kill, pid, 0, 0); }
static inline int getpid(void) { return CALL(getpid, 0, 0, 0); }
static inline int sleep(uint32_t milliseconds) { return CALL(sleep, milliseconds, 0, 0); }
static inline int yield(void) { return CALL(yield, 0, 0, 0); }
static inline uint32_t uptime(void) { return CALL(uptime, 0, 0, 0); } /* milliseconds */
static inline int read(int file, void *buffer, size_t size) { return CALL(read, file, buffer, size); }
static inline int write(int file, const void *text, size_t size) { return CALL(write, file, text, size); }
static inline int open(const char *path, int flags) { return CALL(open, path, flags, 0); }
static inline int close(int file) { return CALL(close, file, 0, 0); }
static inline int dup(int file, int to) { return CALL(dup, file, to, 0); } /* to -1: the lowest free one */
static inline int pipe(int files[2]) { return CALL(pipe, files, 0, 0); }   /* [0] to read, [1] to write */
static inline int seek(int file, int offset, int whence) { return CALL(seek, file, offset, whence); }
static inline int stat(const char *path, struct file_status *status) { return CALL(stat, path, status, 0); }
static inline int fstat(int file, struct file_status *status) { return CALL(fstat, file, status, 0); }
/* 1 and the next entry, or 0 behind the last. */
static inline int readdir(int file, struct directory_entry *entry) { return CALL(readdir, file, entry, 0); }
static inline int mkdir(const char *path) { return CALL(mkdir, path, 0, 0); }
static inline int unlink(const char *path) { return CALL(unlink, path, 0, 0); }
static inline int rename(const char *from, const char *to) { return CALL(rename, from, to, 0); }
static inline int chdir(const char *path) { return CALL(chdir, path, 0, 0); }
static inline int sync(void) { return CALL(sync, 0, 0, 0); }
static inline int setgroup(int pid, int group) { return CALL(setgroup, pid, group, 0); }
static inline int foreground(int group) { return CALL(foreground, group, 0, 0); }
static inline int process_info(int i, struct process_info *info) { return CALL(process_info, i, info, 0); }
static inline int memory_info(struct memory_info *info) { return CALL(memory_info, info, 0, 0); }

/* NULL if there is no memory. Addresses of programs may look negative; errors are just below 0. */
static inline void *sbrk(int bytes)
{
    uint32_t before = CALL(sbrk, bytes, 0, 0);

    return before >= USER_END ? NULL : (void *)before;
}

/* One write() for each call, so that lines of several programs do not mix. */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
void complain(const char *format, ...) __attribute__((format(printf, 1, 2))); /* to file 2 */
int print_file(int file, uint32_t limit); /* up to its end, or so many bytes; 0 or an error in reading */
/* Where a copy of `from` goes: `to`, or into it if that is a directory. */
void target_path(char path[PATH_SIZE], const char *from, const char *to);
int open_or_complain(const char *program, const char *path, int flags);

/* For programs that do the same with each of their arguments; returns what main() should. */
int each_argument(int argc, char **argv, int (*act)(const char *argument));
int each_file(int argc, char **argv, int (*act)(int file, const char *name));

/* Reading line by line. */
struct reader {
    int file, next, length; /* begin with {file} */
    char buffer[512];
};
int read_line(struct reader *reader, char *line, int size); /* its length with the newline; 0 at the end */

const char *error_text(int error);
/* They tell what is wrong, and return a program's status, 1. */
int usage(const char *text);
int fail(const char *program, const char *what, int error);
bool number(const char *text, uint32_t *value); /* decimal digits and nothing else */
uint32_t number_or(const char *text, uint32_t otherwise); /* NULL or no number: otherwise */

/* The pseudo-random number after x, neither 0: Marsaglia, "Xorshift RNGs", J. of Statistical Software 8 (2003). */
static inline uint32_t xorshift(uint32_t x)
{
    x ^= x << 13;
    x ^= x >> 17;
    return x ^ x << 5;
}

#endif
