/*
 * Reading order 21. The tree of files. Its root is the archive; other file systems appear as
 * directories of the root. A path is followed step by step; what it leads to is a node, of which there
 * is one for each file in use, so that a file system learns when nobody uses a file any more.
 */
#include "kernel.h"

#define MAX_NODES 160
#define MAX_MOUNTS 4

static struct node nodes[MAX_NODES];

static struct {
    const char *name;
    const struct filesystem *fs;
} mounts[MAX_MOUNTS];

/* A file system becomes a directory of the root. The archive should have an empty one of that name. */
void nodes_mount(const char *name, const struct filesystem *fs)
{
    for (int i = 0; i < MAX_MOUNTS; i++) {
        if (mounts[i].fs)
            continue;
        mounts[i].name = name;
        mounts[i].fs = fs;
        return;
    }
    panic("more than %d mounts", MAX_MOUNTS);
}

/* The index-th mount, or NULL. */
const char *nodes_mounted(int index, const struct filesystem **fs)
{
    if (index >= MAX_MOUNTS || !mounts[index].fs)
        return NULL;
    *fs = mounts[index].fs;
    return mounts[index].name;
}

/* ---- nodes ---- */

static int node_get(const struct filesystem *fs, int number, struct node **node)
{
    struct node *found = NULL;

    for (struct node *n = nodes; n < nodes + MAX_NODES; n++) {
        if (n->references > 0 && n->fs == fs && n->number == number) {
            n->references++;
            *node = n;
            return 0;
        }
        if (n->references == 0 && !found)
            found = n;
    }
    if (!found)
        return -E_FILES;
    *found = (struct node){fs, number, 1};
    *node = found;
    return 0;
}

void node_share(struct node *node)
{
    node->references++;
}

void node_release(struct node *node)
{
    assert(node->references > 0);
    /* The node stays while the file system is busy: it may sleep, and somebody may look for it. */
    if (node->references == 1 && node->fs->unused)
        node->fs->unused(node);
    node->references--;
}

int node_status(struct node *node, struct file_status *status)
{
    return node->fs->status(node->number, status);
}

bool node_is(struct node *node, uint32_t type)
{
    struct file_status s;

    return node_status(node, &s) == 0 && s.type == type;
}

uint32_t nodes_in_use(void)
{
    uint32_t count = 0;

    for (struct node *n = nodes; n < nodes + MAX_NODES; n++)
        count += n->references > 0;
    return count;
}

/* ---- paths ---- */

/* Where one step leads. fs and number are changed; returns 0 or an error. */
static int step(const struct filesystem **fs, int *number, const char *name)
{
    bool at_root = *number == (*fs)->root;

    if (at_root && *fs != &archive_fs && strcmp(name, "..") == 0) {
        *fs = &archive_fs;
        *number = archive_fs.root;
        return 0;
    }
    if (at_root && *fs == &archive_fs) {
        for (int i = 0; i < MAX_MOUNTS; i++) {
            if (!mounts[i].fs || strcmp(mounts[i].name, name) != 0)
                continue;
            *fs = mounts[i].fs;
            *number = (*fs)->root;
            return 0;
        }
    }
    int found = (*fs)->find(*number, name);
    if (found < 0)
        return found;
    *number = found;
    return 0;
}

/*
 * Follow a path to its last name, which is left in name; empty for the root itself. The node is that
 * of the directory in which the name is to be looked up.
 */
static int walk(const char *path, struct node **node, char name[FILE_NAME_SIZE])
{
    const struct filesystem *fs = &archive_fs;
    int number = fs->root;

    if (*path != '/' && current->directory) {
        fs = current->directory->fs;
        number = current->directory->number;
    }
    name[0] = 0;
    for (;;) {
        while (*path == '/')
            path++;
        if (!*path)
            return node_get(fs, number, node);
        int error = name[0] ? step(&fs, &number, name) : 0;
        if (error)
            return error;
        uint32_t n = 0;
        for (; *path && *path != '/'; path++) {
            if (n == FILE_NAME_SIZE - 1)
                return -E_NOTFOUND; /* no file has such a long name */
            name[n++] = *path;
        }
        name[n] = 0;
    }
}

/* The file that a path names. */
int node_open(const char *path, struct node **node)
{
    char name[FILE_NAME_SIZE];
    struct node *directory;
    int error = walk(path, &directory, name);

    if (error)
        return error;
    const struct filesystem *fs = directory->fs;
    int number = directory->number;
    if (name[0])
        error = step(&fs, &number, name);
    if (!error)
        error = node_get(fs, number, node);
    node_release(directory);
    return error;
}

/* May something of that name be made, or taken away, in that directory? */
static int check_change(struct node *directory, const char *name)
{
    if (!name[0] || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return -E_EXISTS;
    if (!directory->fs->create)
        return -E_READONLY;
    return 0;
}

/* A new file or directory; E_EXISTS if there is one already. */
int node_create(const char *path, int type, struct node **node)
{
    char name[FILE_NAME_SIZE];
    struct node *directory;
    int error = walk(path, &directory, name);

    if (error)
        return error;
    error = check_change(directory, name);
    if (!error) {
        int number = directory->fs->create(directory->number, name, type);
        error = number < 0 ? number : node_get(directory->fs, number, node);
    }
    node_release(directory);
    return error;
}

int node_make_directory(const char *path)
{
    struct node *node;
    int error = node_create(path, TYPE_DIRECTORY, &node);

    if (!error)
        node_release(node);
    return error;
}

/* A file has lost its name. If nobody has it open, it goes now; nobody can find it any more. */
static void let_go(const struct filesystem *fs, int number)
{
    struct node last = {fs, number, 1};

    for (struct node *n = nodes; n < nodes + MAX_NODES; n++)
        if (n->references > 0 && n->fs == fs && n->number == number)
            return;
    fs->unused(&last);
}

int node_remove(const char *path)
{
    char name[FILE_NAME_SIZE];
    struct node *directory;
    int error = walk(path, &directory, name);

    if (error)
        return error;
    error = check_change(directory, name);
    if (!error) {
        int removed = directory->fs->remove(directory->number, name);
        if (removed > 0)
            let_go(directory->fs, removed);
        error = removed < 0 ? removed : 0;
    }
    node_release(directory);
    return error;
}

/* Give a file another name, in the same file system; whatever had that name loses it. */
int node_rename(const char *from, const char *to)
{
    char name[FILE_NAME_SIZE], to_name[FILE_NAME_SIZE];
    struct node *directory, *to_directory;
    int result = walk(from, &directory, name);

    if (result)
        return result;
    result = walk(to, &to_directory, to_name);
    if (!result) {
        result = check_change(directory, name);
        if (!result)
            result = check_change(to_directory, to_name);
        if (!result && directory->fs != to_directory->fs)
            result = -E_INVALID;
        if (!result)
            result = directory->fs->rename(directory->number, name, to_directory->number, to_name);
        if (result > 0) {
            let_go(directory->fs, result);
            result = 0;
        }
        node_release(to_directory);
    }
    node_release(directory);
    return result;
}
