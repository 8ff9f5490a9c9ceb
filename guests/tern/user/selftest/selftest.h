/* What the parts of selftest share. */
#ifndef SELFTEST_H
#define SELFTEST_H

#include "../user.h"

/*
 * A check runs in a process of its own. It returns NULL, or what does not hold, or SKIPPED and a
 * reason. It must leave nothing behind: no child, no memory, no open file.
 */
struct check {
    const char *name;
    const char *(*run)(void);
};

#define SKIPPED "skipped: "
#define NO_DISK SKIPPED "no disk"

/* Ends a check that fails. */
#define HOLDS(condition)       \
    do {                       \
        if (!(condition))      \
            return #condition; \
    } while (0)

/* The groups, in the order in which they run; each ends with {NULL, NULL}. */
extern const struct check process_checks[], memory_checks[], fault_checks[], file_checks[], pipe_checks[],
    fpu_checks[], time_checks[], disk_checks[];

/* Fork a child that calls a function and exits with its result. */
int child(int (*run)(void));

/* The status with which a child ended; -1 if there is none of that pid. */
int status_of(int pid);

/* Fork, call, wait. */
static inline int status_of_child(int (*run)(void)) { return status_of(child(run)); }

#endif
