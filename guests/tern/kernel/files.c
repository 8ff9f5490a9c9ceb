/*
 * Reading order 24. Open files, and the descriptors by which a process names them. Descriptors that
 * came from each other by fork() or dup() share one open file, and so its offset.
 */
#include "kernel.h"

#define MAX_OPEN 128

struct file {
    int references; /* descriptors; 0: unused */
    bool readable, writable, append;
    uint32_t offset;
    struct lock lock; /* held while offset is in use, if that may take long */
    struct pipe *pipe; /* or else */
    struct node *node;
};

static struct file files[MAX_OPEN];

static struct file *allocate(void)
{
    for (struct file *f = files; f < files + MAX_OPEN; f++) {
        if (f->references > 0)
            continue;
        *f = (struct file){.references = 1};
        return f;
    }
    return NULL;
}

static void release(struct file *f)
{
    assert(f->references > 0);
    if (f->references > 1) {
        f->references--;
        return;
    }
    if (f->pipe)
        pipe_close(f->pipe, f->writable);
    else if (f->node)
        node_release(f->node); /* may sleep */
    f->references = 0;
}

static struct file *lookup(int descriptor)
{
    return descriptor >= 0 && descriptor < MAX_FILES ? current->files[descriptor] : NULL;
}

/* The lowest free descriptor names the file from now on. If there is none, the file is released. */
static int install(struct process *process, struct file *f)
{
    for (int i = 0; i < MAX_FILES; i++) {
        if (process->files[i])
            continue;
        process->files[i] = f;
        return i;
    }
    release(f);
    return -E_FILES;
}

/* ---- open and close ---- */

static int open_node(const char *path, int flags, struct node **node)
{
    int error = node_open(path, node);

    if (error == -E_NOTFOUND && (flags & OPEN_CREATE)) {
        error = node_create(path, TYPE_FILE, node);
        if (error == -E_EXISTS) /* made by somebody else while we slept */
            error = node_open(path, node);
    }
    if (error || !(flags & (OPEN_WRITE | OPEN_TRUNCATE | OPEN_APPEND)))
        return error;
    if (node_is(*node, TYPE_DIRECTORY))
        error = -E_DIRECTORY;
    else if (!(*node)->fs->write)
        error = -E_READONLY;
    else if ((flags & OPEN_TRUNCATE) && (*node)->fs->truncate)
        error = (*node)->fs->truncate((*node)->number);
    if (error)
        node_release(*node);
    return error;
}

static int open_for(struct process *process, const char *path, int flags)
{
    struct node *node;
    int error = open_node(path, flags, &node);

    if (error)
        return error;
    struct file *f = allocate();
    if (!f) {
        node_release(node);
        return -E_FILES;
    }
    f->node = node;
    f->readable = flags & OPEN_READ;
    f->writable = flags & OPEN_WRITE;
    f->append = flags & OPEN_APPEND;
    return install(process, f);
}

int files_open(const char *path, int flags)
{
    return open_for(current, path, flags);
}

/* The first process begins with the console for input, output and messages. */
int files_console(struct process *process)
{
    for (int i = 0; i < 3; i++) {
        int descriptor = open_for(process, "/dev/console", i == 0 ? OPEN_READ : OPEN_WRITE);
        if (descriptor < 0)
            return descriptor;
    }
    return 0;
}

int files_close(int descriptor)
{
    struct file *f = lookup(descriptor);

    if (!f)
        return -E_BADFILE;
    current->files[descriptor] = NULL;
    release(f);
    return 0;
}

/* Another descriptor for the same file: `to`, whose file is closed first, or any if that is -1. */
int files_dup(int descriptor, int to)
{
    struct file *f = lookup(descriptor);

    if (!f || to < -1 || to >= MAX_FILES)
        return -E_BADFILE;
    if (to == descriptor)
        return to;
    f->references++;
    if (to == -1)
        return install(current, f);
    if (current->files[to])
        files_close(to);
    current->files[to] = f;
    return to;
}

int files_pipe(int descriptors[2])
{
    struct file *in = allocate(), *out = in ? allocate() : NULL;
    struct pipe *pipe;

    if (!out || pipe_create(&pipe) < 0) {
        if (in)
            in->references = 0;
        if (out)
            out->references = 0;
        return out ? -E_MEMORY : -E_FILES;
    }
    in->pipe = out->pipe = pipe;
    in->readable = out->writable = true;
    if ((descriptors[0] = install(current, in)) < 0) {
        release(out);
        return -E_FILES;
    }
    if ((descriptors[1] = install(current, out)) < 0) {
        files_close(descriptors[0]);
        return -E_FILES;
    }
    return 0;
}

void files_inherit(struct process *to, const struct process *from)
{
    for (int i = 0; i < MAX_FILES; i++)
        if ((to->files[i] = from->files[i]) != NULL)
            to->files[i]->references++;
    if ((to->directory = from->directory) != NULL)
        node_share(to->directory);
}

void files_close_all(struct process *process)
{
    for (int i = 0; i < MAX_FILES; i++) {
        struct file *f = process->files[i];
        process->files[i] = NULL;
        if (f)
            release(f);
    }
    if (process->directory)
        node_release(process->directory);
    process->directory = NULL;
}

uint32_t files_in_use(void)
{
    uint32_t count = 0;

    for (struct file *f = files; f < files + MAX_OPEN; f++)
        count += f->references > 0;
    return count;
}

/* ---- use ---- */

static void begin_use(struct file *f)
{
    if (f->node->fs->slow)
        lock_acquire(&f->lock);
}

static void end_use(struct file *f)
{
    if (f->node->fs->slow)
        lock_release(&f->lock);
}

/* Must hold, here and below: memory of the program has been approved of by space_prepare(). */
int files_read(int descriptor, void *to, uint32_t size)
{
    struct file *f = lookup(descriptor);

    if (!f || !f->readable)
        return -E_BADFILE;
    if (f->pipe)
        return pipe_read(f->pipe, to, size);
    begin_use(f);
    int n = f->node->fs->read(f->node->number, to, f->offset, size);
    if (n > 0)
        f->offset += n;
    end_use(f);
    return n;
}

int files_write(int descriptor, const void *from, uint32_t size)
{
    struct file *f = lookup(descriptor);

    if (!f || !f->writable)
        return -E_BADFILE;
    if (f->pipe)
        return pipe_write(f->pipe, from, size);
    begin_use(f);
    int n = f->node->fs->write(f->node->number, from, f->append ? AT_END : f->offset, size);
    if (n > 0)
        f->offset += n;
    end_use(f);
    return n;
}

int files_seek(int descriptor, int32_t offset, int whence)
{
    struct file *f = lookup(descriptor);
    struct file_status s = {0};

    if (!f || !f->node)
        return -E_BADFILE;
    int error = whence == SEEK_END ? node_status(f->node, &s) : 0;
    if (error)
        return error;
    uint32_t base = whence == SEEK_SET ? 0 : whence == SEEK_CURRENT ? f->offset : s.size;
    if (whence < SEEK_SET || whence > SEEK_END || (int32_t)(base + offset) < 0)
        return -E_INVALID;
    return f->offset = base + offset;
}

int files_status(int descriptor, struct file_status *status)
{
    struct file *f = lookup(descriptor);

    if (!f)
        return -E_BADFILE;
    if (f->node)
        return node_status(f->node, status);
    *status = (struct file_status){.type = TYPE_PIPE};
    return 0;
}

/* The next entry of a directory that has been opened: 1, or 0 if there are no more. */
int files_entry(int descriptor, struct directory_entry *entry)
{
    struct file *f = lookup(descriptor);

    if (!f || !f->node || !f->readable)
        return -E_BADFILE;
    if (!node_is(f->node, TYPE_DIRECTORY))
        return -E_NOTDIRECTORY;
    return f->node->fs->entry(f->node->number, &f->offset, entry);
}

int files_chdir(const char *path)
{
    struct node *node;
    int error = node_open(path, &node);

    if (error)
        return error;
    if (!node_is(node, TYPE_DIRECTORY)) {
        node_release(node);
        return -E_NOTDIRECTORY;
    }
    if (current->directory)
        node_release(current->directory);
    current->directory = node;
    return 0;
}
