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
    bool fxsr;       /* save FPU registers with FXSAVE, and SSE's with them */
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
extern uint32_t interrupt_counts[IRQ_COUNT];
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

struct process;

/* locks.c: locks that sleep. Never from interrupts. */
struct lock {
    const struct process *holder; /* NULL: free */
};
void lock_acquire(struct lock *lock);
void lock_release(struct lock *lock);

#define AT_END 0xffffffffu

/* nodes.c: the tree of files, whatever they are kept in. */
struct node;
struct filesystem { /* files and directories have numbers; all give an error below 0 */
    const char *name;
    int root; /* number of its root directory */
    bool slow; /* it may sleep: an open file is used by one process at a time */
    int (*status)(int file, struct file_status *status);
    int (*find)(int directory, const char *name);  /* number of the file; knows ".." and "." */
    int (*entry)(int directory, uint32_t *position, struct directory_entry *entry); /* 1; 0 at the end */
    int (*read)(int file, void *to, uint32_t offset, uint32_t size);
    /* From here on NULL if it cannot be written to. */
    int (*write)(int file, const void *from, uint32_t offset, uint32_t size); /* offset may be AT_END */
    int (*truncate)(int file);
    int (*create)(int directory, const char *name, int type);
    int (*remove)(int directory, const char *name); /* number of the file */
    /* Number of the file that had the name before; 0: none had. */
    int (*rename)(int directory, const char *name, int to_directory, const char *to_name);
    void (*unused)(const struct node *node); /* nobody else has it open any more */
};
struct node { /* a file that is in use */
    const struct filesystem *fs;
    int number;
    int references;
};
const char *nodes_mounted(int index, const struct filesystem **fs);
uint32_t nodes_in_use(void);
void nodes_mount(const char *name, const struct filesystem *fs);
int node_open(const char *path, struct node **node);
int node_create(const char *path, int type, struct node **node);
int node_make_directory(const char *path);
int node_remove(const char *path);
int node_rename(const char *from, const char *to);
void node_share(struct node *node);
void node_release(struct node *node);
int node_status(struct node *node, struct file_status *status);
bool node_is(struct node *node, uint32_t type);

/* archive.c, devices.c, view.c: file systems. */
extern const struct filesystem archive_fs, devices_fs, view_fs;
void archive_init(void);
bool is_archive(const char *image, uint32_t size);

/* pipes.c, files.c */
struct pipe;
int pipe_create(struct pipe **pipe);
int pipe_read(struct pipe *pipe, char *to, uint32_t size);
int pipe_write(struct pipe *pipe, const char *from, uint32_t size);
void pipe_close(struct pipe *pipe, bool writer);
struct file;
uint32_t files_in_use(void);
int files_open(const char *path, int flags);
int files_close(int descriptor);
int files_dup(int descriptor, int to);
int files_pipe(int descriptors[2]);
int files_read(int descriptor, void *to, uint32_t size);
int files_write(int descriptor, const void *from, uint32_t size);
int files_seek(int descriptor, int32_t offset, int whence);
int files_status(int descriptor, struct file_status *status);
int files_entry(int descriptor, struct directory_entry *entry);
int files_chdir(const char *path);
int files_console(struct process *process);
void files_inherit(struct process *to, const struct process *from);
void files_close_all(struct process *process);

/* fpu.c */
struct fpu_state {
    uint8_t bytes[512]; /* FNSAVE takes 108 of them */
} __attribute__((aligned(16)));
void fpu_init(void);
const char *fpu_kind(void);
bool fpu_use(void);
void fpu_switch(const struct process *next);
void fpu_inherit(struct process *child);
void fpu_forget(struct process *process);

/* process.c, switch.S */
struct process {
    int state; /* STATE_..., abi.h */
    int pid, group;
    struct process *parent;
    char name[NAME_SIZE];
    struct space space;
    struct file *files[MAX_FILES];
    struct node *directory; /* where relative paths begin; NULL: at the root */
    char *stack;            /* kernel stack; its top holds the user's registers */
    uint32_t saved_esp;     /* while it does not run */
    int saved_depth;
    const void *channel;    /* what it sleeps on, or NULL */
    uint32_t wake_tick;     /* 0: it does not wait for the clock */
    int killed;             /* 0, or the status with which it has to exit */
    int exit_status;
    uint32_t ticks;         /* processor time */
    bool fpu_used;          /* fpu is valid, unless the FPU itself holds the state */
    struct fpu_state fpu;
};
#define MAX_PROCESSES 64
extern struct process *current, processes[MAX_PROCESSES];
extern bool reschedule;
void process_init(void);
void process_thread(const char *name, void (*run)(void));
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
void wait_on(const void *channel);
bool process_may_sleep(void);
void sleep_ticks(uint32_t n);
void wakeup(const void *channel);
void switch_stack(uint32_t *save_esp, uint32_t esp); /* switch.S */

/* disk.c: the first IDE disk. One command at a time: the caller holds a lock. */
#define SECTOR_SIZE 512
extern struct disk {
    uint32_t sectors; /* 0: there is none */
    uint32_t reads, writes, flushes;
    char model[41];
} disk;
void disk_init(void);
void disk_interrupt(void);
int disk_read(uint32_t sector, uint32_t count, void *to);
int disk_write(uint32_t sector, uint32_t count, const void *from);
int disk_flush(void);

/* ternfs.c: the file system on it. */
extern const struct filesystem ternfs;
void ternfs_mount(void);
int ternfs_sync(void);
struct disk_usage {
    bool mounted;
    uint32_t blocks, free_blocks, inodes, commits;
};
void ternfs_usage(struct disk_usage *usage);

/* exec.c, syscall.c */
int exec(struct process *process, const char *name, const char *arguments, uint32_t size);
void syscall(struct trap_frame *frame);

#endif
