/*
 * Reading order 26. The kernel's view of itself, in /proc: a file for each subject and for each process,
 * made when it is read. A file is made anew for each read(), so read it at once (a page will do).
 */
#include "kernel.h"

#define ROOT 0
#define PROCESS 0x1000 /* and above: the file of process file - PROCESS */

struct text {
    char *at;
    uint32_t room;
};

static void add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct text *text, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    uint32_t n = vsnprintf(text->at, text->room, format, arguments);
    va_end(arguments);
    text->at += n;
    text->room -= n;
}

static void show_uptime(struct text *text)
{
    add(text, "ticks: %u\nmilliseconds: %u\n", ticks, ticks * TICK_MS);
}

static void show_memory(struct text *text)
{
    struct memory_info m;

    frames_info(&m);
    add(text, "total: %u\nreserved: %u\nused: %u\nfree: %u\n", m.total, m.reserved, m.used, m.free);
}

static void show_modules(struct text *text)
{
    for (int i = 0; i < bootinfo.modules; i++) {
        const struct module *m = &bootinfo.module[i];
        uint32_t size = m->range.end - m->range.start;
        add(text, "%s: %u bytes%s\n", m->name, size,
            m->range.end <= ram_end && is_archive(to_virtual(m->range.start), size) ? ", archive" : "");
    }
}

static void show_command_line(struct text *text)
{
    add(text, "%s\n", bootinfo.command_line);
}

static void show_interrupts(struct text *text)
{
    for (int i = 0; i < IRQ_COUNT; i++)
        if (interrupt_counts[i])
            add(text, "%d: %u\n", i, interrupt_counts[i]);
}

static void show_mounts(struct text *text)
{
    const struct filesystem *fs;
    const char *name;

    add(text, "/: %s\n", archive_fs.name);
    for (int i = 0; (name = nodes_mounted(i, &fs)) != NULL; i++)
        add(text, "/%s: %s%s\n", name, fs->name, fs->create ? ", read and write" : "");
}

static void show_files(struct text *text)
{
    add(text, "open: %u\nnodes: %u\n", files_in_use(), nodes_in_use());
}

static void show_disk(struct text *text)
{
    struct disk_usage u;

    ternfs_usage(&u);
    if (disk.sectors == 0)
        return;
    add(text, "model: %s\nsectors: %u\nreads: %u\nwrites: %u\nflushes: %u\n", disk.model, disk.sectors,
        disk.reads, disk.writes, disk.flushes);
    if (u.mounted)
        add(text, "blocks: %u\nfree: %u\ninodes: %u\ncommits: %u\n", u.blocks, u.free_blocks, u.inodes,
            u.commits);
}

static void show_cpu(struct text *text)
{
    add(text, "fpu: %s\n", fpu_kind());
}

static const struct {
    const char *name;
    void (*show)(struct text *text);
} subjects[] = {
    {"uptime", show_uptime}, {"memory", show_memory}, {"modules", show_modules},
    {"cmdline", show_command_line}, {"cpu", show_cpu}, {"disk", show_disk}, {"interrupts", show_interrupts}, {"mounts", show_mounts}, {"files", show_files},
};

#define SUBJECTS (int)NELEMENTS(subjects)

static bool find_process(int pid, struct process_info *p)
{
    for (int i = 0; process_info(i, p) == 0; i++)
        if (p->pid == pid)
            return true;
    return false;
}

static int show_process(struct text *text, int pid)
{
    static const char *const states[] = {"unused", "new", "runnable", "running", "sleeping", "zombie"};
    struct process_info p;

    if (!find_process(pid, &p))
        return -E_PROCESS;
    add(text, "name: %s\npid: %d\nparent: %d\ngroup: %d\nstate: %s\npages: %u\nmilliseconds: %u\n",
        p.name, p.pid, p.parent, p.group, states[p.state], p.pages, p.milliseconds);
    return 0;
}

static int status(int file, struct file_status *status)
{
    *status = (struct file_status){file == ROOT ? TYPE_DIRECTORY : TYPE_FILE, file, 1, 0};
    return 0;
}

static int find(int directory, const char *name)
{
    struct process_info p;
    int pid = 0;

    if (directory != ROOT)
        return -E_NOTDIRECTORY;
    if (strcmp(name, ".") == 0)
        return ROOT;
    if (strcmp(name, "self") == 0)
        return PROCESS + current->pid;
    for (int i = 0; i < SUBJECTS; i++)
        if (strcmp(subjects[i].name, name) == 0)
            return i + 1;
    for (; *name >= '0' && *name <= '9' && pid < 1000000; name++)
        pid = pid * 10 + *name - '0';
    return !*name && pid > 0 && find_process(pid, &p) ? PROCESS + pid : -E_NOTFOUND;
}

/* Positions: the subjects, then the places in the table of processes. */
static int entry(int directory, uint32_t *position, struct directory_entry *entry)
{
    struct process_info p;

    if (*position < SUBJECTS) {
        strlcpy(entry->name, subjects[*position].name, sizeof entry->name);
        entry->number = ++*position;
        return 1;
    }
    while (process_info((*position)++ - SUBJECTS, &p) == 0) {
        if (p.pid == 0)
            continue;
        snprintf(entry->name, sizeof entry->name, "%d", p.pid);
        entry->number = PROCESS + p.pid;
        return 1;
    }
    return 0;
}

static int read(int file, void *to, uint32_t offset, uint32_t size)
{
    if (file == ROOT)
        return -E_DIRECTORY;
    uint32_t frame = frame_allocate();
    if (!frame)
        return -E_MEMORY;
    char *start = to_virtual(frame);
    struct text text = {start, PAGE_SIZE};
    int result = 0;
    if (file >= PROCESS)
        result = show_process(&text, file - PROCESS);
    else
        subjects[file - 1].show(&text);
    uint32_t length = text.at - start;
    if (result == 0 && offset < length) {
        result = size < length - offset ? size : length - offset;
        memcpy(to, start + offset, result);
    }
    frame_release(frame);
    return result;
}

const struct filesystem view_fs = {
    .name = "view", .root = ROOT, .status = status, .find = find, .entry = entry, .read = read,
};
