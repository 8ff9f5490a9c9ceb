/* What programs can use: system calls as C functions, and a very small library. */
#ifndef USER_H
#define USER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../include/abi.h"
#include "../lib/lib.h"

/* System calls (README.md). Errors come back as -E_... */
void exit(int status) __attribute__((noreturn));
int fork(void);
int exec(const char *name, char *const argv[]);
int wait(int pid, int *status, int flags);
int kill(int pid);
int getpid(void);
int sleep(uint32_t milliseconds);
int yield(void);
uint32_t uptime(void); /* milliseconds */
void *sbrk(int bytes); /* NULL if there is no memory */
int read(int file, void *buffer, size_t size);
int write(int file, const void *text, size_t size);
int open(const char *path, int flags);
int close(int file);
int dup(int file, int to); /* to -1: the lowest that is free */
int pipe(int files[2]);    /* [0] to read, [1] to write */
int seek(int file, int offset, int whence);
int stat(const char *path, struct file_status *status);
int fstat(int file, struct file_status *status);
int readdir(int file, struct directory_entry *entry); /* 1, or 0 behind the last */
int mkdir(const char *path);
int unlink(const char *path);
int rename(const char *from, const char *to);
int chdir(const char *path);
int sync(void);
int setgroup(int pid, int group);
int foreground(int group);
int process_info(int index, struct process_info *info);
int memory_info(struct memory_info *info);
void poweroff(int status) __attribute__((noreturn));
int syscall(int number, uint32_t a, uint32_t b, uint32_t c);

/* One write() for each call, so that lines of several programs do not mix. */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
void complain(const char *format, ...) __attribute__((format(printf, 1, 2))); /* to file 2 */
int open_or_complain(const char *program, const char *path, int flags);

const char *base_name(const char *path);

/* Reading line by line. */
struct reader {
    int file, next, length; /* begin with {file} */
    char buffer[512];
};
int read_line(struct reader *reader, char *line, int size); /* its length with the newline; 0 at the end */

const char *error_text(int error);
bool number(const char *text, uint32_t *value); /* decimal digits and nothing else */
uint32_t number_or(const char *text, uint32_t otherwise); /* NULL or no number: otherwise */

#endif
