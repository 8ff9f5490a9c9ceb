/*
 * Reading order 0. Everything that one file of the kernel offers to the others, in reading order.
 *
 * Rules that hold everywhere:
 *  - The kernel is not preemptive: a process inside it runs until it sleeps, exits or returns to
 *    user mode. Only interrupt handlers come in between, so only data that they touch is guarded,
 *    by interrupts_off() ... interrupts_on().
 *  - The kernel never faults. Memory of a program is checked and made present by space_prepare()
 *    before the kernel touches it. A fault in ring 0 is a defect and ends in panic().
 *  - No instruction is used that behaves differently in ring 1 without telling (PUSHF, POPF, SGDT,
 *    SMSW, LAR, MOV from CS ...), so the kernel also runs where a monitor has taken ring 0 away.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../include/abi.h"
#include "../lib/lib.h"
#include "layout.h"

#define NELEMENTS(array) (sizeof(array) / sizeof *(array))

/* Physical address to pointer in the direct map, and back. */
static inline void *to_virtual(uint32_t physical) { return (void *)(physical + KERNEL_BASE); }
static inline uint32_t to_physical(const void *pointer) { return (uint32_t)pointer - KERNEL_BASE; }

static inline uint32_t page_down(uint32_t address) { return address & ~(PAGE_SIZE - 1u); }
static inline uint32_t page_up(uint32_t address) { return page_down(address + PAGE_SIZE - 1); }

/* What trap entry leaves on the kernel stack (vectors.S). esp and ss exist only for ring 3. */
struct trap_frame {
    uint32_t edi, esi, ebp, unused, ebx, edx, ecx, eax; /* PUSHA */
    uint32_t es, ds;
    uint32_t vector, error;
    uint32_t eip, cs, eflags; /* from here on the processor's */
    uint32_t esp, ss;
};

/* bootinfo.c: what the boot loader told us, copied out of its memory. */
struct range {
    uint32_t start, end; /* physical */
};
struct module {
    struct range range;
    char name[64];
};
#define MAX_RANGES 16
#define MAX_MODULES 8
struct bootinfo {
    char command_line[1024]; /* without the image's name */
    int ranges, modules;
    struct range usable[MAX_RANGES];
    struct module module[MAX_MODULES];
};
extern struct bootinfo bootinfo;
void bootinfo_init(uint32_t magic, uint32_t physical);

/* options.c: the command line. */
struct options {
    bool quiet;      /* no banner */
    bool pse;        /* 4 MiB pages in the direct map */
    bool crash;      /* panic on purpose, to see what it looks like */
    char init[NAME_SIZE];
    char run[1024];  /* handed to init as its argument; empty if absent */
};
extern struct options options;
void options_init(const char *command_line);

/* segments.c, interrupts.c, traps.c, vectors.S */
void segments_init(void);
void set_kernel_stack(void *top);
void interrupts_off(void);
void interrupts_on(void);
extern int interrupts_depth;
void traps_init(void);
extern char vector_stubs[], syscall_stub[], trap_return[];

/* pic.c, timer.c */
void pic_init(void);
void pic_enable(int irq);
bool pic_acknowledge(int irq);
#define TICK_MS 10
extern volatile uint32_t ticks; /* since boot */
void timer_init(void);
void timer_interrupt(void);

/* uart.c, console.c */
void uart_init(void);
void uart_interrupt(void);
uint32_t uart_room(void);
void uart_wait_room(uint32_t bytes);
void uart_put(char c);
void uart_start(void);
void uart_flush(void);
void uart_resume_input(void);
bool console_has_room(void);
void console_input(char c);
int console_read(char *buffer, uint32_t size);
int console_write(const char *text, uint32_t length);
int console_set_foreground(int group);
void console_report(const char *format, ...) __attribute__((format(printf, 1, 2)));
void kprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* panic.c, power.c */
void panic(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void panic_frame(const struct trap_frame *frame, const char *reason) __attribute__((noreturn));
void power_off(int status) __attribute__((noreturn));
#define PANIC_STATUS 127
#define assert(condition) ((condition) ? (void)0 : panic("%s: %s does not hold", __func__, #condition))

/* frames.c: physical memory in pages. A frame is named by its physical address; 0 is none. */
void frames_init(void);
uint32_t frame_allocate(void);
uint32_t frame_allocate_zeroed(void);
void frame_share(uint32_t frame);
void frame_release(uint32_t frame);
int frame_references(uint32_t frame);
void frames_info(struct memory_info *info);
extern uint32_t ram_end; /* physical end of the RAM that we use */

/* paging.c: page directories and tables. */
#define PTE_PRESENT 0x001
#define PTE_WRITABLE 0x002
#define PTE_USER 0x004
#define PTE_LARGE 0x080
#define PTE_COPY 0x200 /* ours: shared until written to */
typedef uint32_t entry_t;
extern entry_t kernel_directory[1024];
void paging_init(void);
entry_t *directory_create(void);
entry_t *page_entry(entry_t *directory, uint32_t address, bool create);
void load_directory(const entry_t *directory);

/* space.c: address spaces of programs. */
struct region {
    uint32_t start, end; /* whole pages */
    bool writable;
};
enum { REGION_HEAP, REGION_STACK, REGION_IMAGE, MAX_REGIONS = REGION_IMAGE + 4 };
struct space {
    entry_t *directory; /* NULL: none */
    uint32_t pages;     /* present */
    uint32_t heap_end;  /* in bytes; the heap's region is this, rounded up */
    struct region regions[MAX_REGIONS];
};
bool space_create(struct space *space);
bool space_copy(struct space *to, struct space *from);
void space_destroy(struct space *space);
void *space_page(struct space *space, uint32_t address, bool write);
bool space_allows(struct space *space, uint32_t address, bool write);
bool space_prepare(struct space *space, uint32_t address, uint32_t length, bool write);
int space_string(struct space *space, uint32_t address, char *to, uint32_t size);
int32_t space_grow(struct space *space, int32_t bytes);

/* process.c, switch.S */
struct process {
    int state; /* STATE_..., abi.h */
    int pid, group;
    struct process *parent;
    char name[NAME_SIZE];
    struct space space;
    char *stack;            /* kernel stack; its top holds the user's registers */
    uint32_t saved_esp;     /* while it does not run */
    int saved_depth;
    const void *channel;    /* what it sleeps on, or NULL */
    uint32_t wake_tick;     /* 0: it does not wait for the clock */
    int killed;             /* 0, or the status with which it has to exit */
    int exit_status;
    uint32_t ticks;         /* processor time */
};
#define MAX_PROCESSES 64
extern struct process *current;
extern bool reschedule;
void process_init(void);
void process_idle(void) __attribute__((noreturn));
struct trap_frame *process_frame(struct process *process);
int process_fork(void);
void process_exit(int status) __attribute__((noreturn));
int process_wait(int pid, int *status, bool hang);
int process_kill(int pid, int status);
int process_kill_group(int group, int status);
int process_set_group(int pid, int group);
int process_info(int index, struct process_info *info);
void process_yield(void);
void process_tick(void);
void process_leave_kernel(void);
void sleep_on(const void *channel);
void sleep_ticks(uint32_t n);
void wakeup(const void *channel);
void switch_stack(uint32_t *save_esp, uint32_t esp); /* switch.S */

/* exec.c, programs.S, syscall.c */
struct program {
    const char *name;
    const char *start, *end; /* its ELF image */
};
extern const struct program programs[], programs_end[];
int exec(struct process *process, const char *name, const char *arguments, uint32_t size);
void syscall(struct trap_frame *frame);

#endif
