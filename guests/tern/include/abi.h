/*
 * The interface between the kernel and its programs: system call numbers, errors and structures.
 * README.md describes it; both sides include this file and nothing else of each other.
 */
#ifndef ABI_H
#define ABI_H

#include <stdint.h>

#define SYSCALL_VECTOR 0x80

#define PAGE_SIZE 4096

/* A program is linked to USER_BASE; its stack grows down from USER_END, by at most STACK_SIZE. */
#define USER_BASE 0x00400000
#define USER_END 0xC0000000u
#define STACK_SIZE (256 * 1024)

/* EAX on entry. Arguments are in EBX, ECX, EDX; the result, or an error below 0, comes in EAX. */
enum {
    SYS_exit = 1,
    SYS_fork,
    SYS_exec,
    SYS_wait,
    SYS_kill,
    SYS_getpid,
    SYS_sleep,
    SYS_yield,
    SYS_uptime,
    SYS_sbrk,
    SYS_read,
    SYS_write,
    SYS_setgroup,
    SYS_foreground,
    SYS_process_info,
    SYS_memory_info,
    SYS_poweroff,
    SYS_open,
    SYS_close,
    SYS_dup,
    SYS_pipe,
    SYS_seek,
    SYS_stat,
    SYS_fstat,
    SYS_readdir,
    SYS_mkdir,
    SYS_unlink,
    SYS_rename,
    SYS_chdir,
    SYS_sync,
};

enum {
    E_INVALID = 1,     /* an argument makes no sense */
    E_FAULT = 2,       /* a pointer does not point to the caller's memory */
    E_MEMORY = 3,      /* no free memory */
    E_PROCESS = 4,     /* no such process, or no child to wait for */
    E_NOTFOUND = 5,    /* no such file or program */
    E_FORMAT = 6,      /* the program is not an ELF image for this machine */
    E_TOOBIG = 7,      /* the arguments do not fit into a page */
    E_BADFILE = 8,     /* no such file descriptor */
    E_BACKGROUND = 9,  /* only the foreground group may read the console */
    E_INTERRUPTED = 10, /* the process was killed while it waited */
    E_LIMIT = 11,      /* too many processes */
    E_FILES = 12,      /* too many open files */
    E_PIPE = 13,       /* nobody will read from the pipe any more */
    E_EXISTS = 14,     /* there is a file of that name already */
    E_NOTDIRECTORY = 15,
    E_DIRECTORY = 16,  /* not with a directory */
    E_NOTEMPTY = 17,   /* the directory has entries */
    E_READONLY = 18,   /* the file system, or this file, cannot be changed */
    E_NOSPACE = 19,    /* the disk is full, or the file as large as files get */
    E_IO = 20          /* the disk has failed */
};

/* What wait() stores: the low byte given to exit(), or one of these. */
#define STATUS_FAULT 0x100  /* killed by an exception; its vector is in the low byte */
#define STATUS_KILLED 0x200 /* killed by kill() or Ctrl-C */

#define WAIT_NOHANG 1

enum { STATE_UNUSED, STATE_NEW, STATE_RUNNABLE, STATE_RUNNING, STATE_SLEEPING, STATE_ZOMBIE };

#define NAME_SIZE 16

struct process_info {
    int32_t pid;
    int32_t parent;
    int32_t group;
    int32_t state;
    uint32_t pages;        /* resident pages of its own, shared ones included */
    uint32_t milliseconds; /* processor time */
    char name[NAME_SIZE];
};

#define MAX_FILES 16  /* descriptors of a process: 0 input, 1 output, 2 messages */
#define PATH_SIZE 128 /* with the NUL */

/* open() */
#define OPEN_READ 1
#define OPEN_WRITE 2
#define OPEN_CREATE 4    /* if there is no such file */
#define OPEN_TRUNCATE 8  /* and throw away what is in it */
#define OPEN_APPEND 16   /* every write goes to the end */

enum { SEEK_SET, SEEK_CURRENT, SEEK_END };

enum { TYPE_NONE, TYPE_FILE, TYPE_DIRECTORY, TYPE_DEVICE, TYPE_PIPE };

struct file_status {
    uint32_t type;
    uint32_t number; /* of the file in its file system */
    uint32_t links;
    uint32_t size;   /* in bytes; 0 if that is not known before reading */
};

#define FILE_NAME_SIZE 28 /* with the NUL */

struct directory_entry {
    uint32_t number;
    char name[FILE_NAME_SIZE];
};

/* All in frames (pages of physical memory); total = reserved + used + free. */
struct memory_info {
    uint32_t total;    /* usable memory above 1 MiB */
    uint32_t reserved; /* the kernel's image and frame table, multiboot modules */
    uint32_t used;     /* handed out: page tables, kernel stacks, programs */
    uint32_t free;
};

#endif
