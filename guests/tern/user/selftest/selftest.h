/* What the parts of selftest share. */
#ifndef SELFTEST_H
#define SELFTEST_H

#include "../user.h"

/*
 * A check runs in a process of its own. It returns NULL, or what does not hold, or SKIPPED and a
 * reason. It must leave nothing behind: no child, no memory, no open file.
 */
struct check {
    const char *name; /* printed with '-' for '_' */
    const char *(*run)(void);
};

#ifdef __clang__
#define IN_ORDER
#else
#define IN_ORDER no_reorder, /* GCC turns the table round otherwise */
#endif

/* Defines a check, and enters it into the table that user.ld makes of them all. */
#define CHECK(function)                                                                                \
    static const char *function(void);                                                                 \
    static const struct check check_##function __attribute__((IN_ORDER used, section("checks"), aligned(4))) = { \
        #function, function};                                                                          \
    static const char *function(void)

#define SKIPPED "skipped: "
#define NO_DISK SKIPPED "no disk"

/* Ends a check that fails. */
#define HOLDS(condition)       \
    do {                       \
        if (!(condition))      \
            return #condition; \
    } while (0)

/* Fork a child that calls a function and exits with its result. */
int child(int (*run)(void));

/* The status with which a child ended; -1 if there is none of that pid. */
int status_of(int pid);

/* Fork, call, wait. */
static inline int status_of_child(int (*run)(void)) { return status_of(child(run)); }

#endif
