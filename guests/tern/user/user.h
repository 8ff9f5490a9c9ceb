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
int setgroup(int pid, int group);
int foreground(int group);
int process_info(int index, struct process_info *info);
int memory_info(struct memory_info *info);
void poweroff(int status) __attribute__((noreturn));
int syscall(int number, uint32_t a, uint32_t b, uint32_t c);

/* One write() for each call, so that lines of several programs do not mix. */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
const char *error_text(int error);
bool number(const char *text, uint32_t *value); /* decimal digits and nothing else */
uint32_t number_or(const char *text, uint32_t otherwise); /* NULL or no number: otherwise */

#endif
