/* Reading order 27. Programs: ELF files (System V gABI, chapters 4 and 5). */
#include "cpu.h"
#include "kernel.h"

struct elf_header {
    uint8_t ident[16];
    uint16_t type, machine;
    uint32_t version, entry, program_headers, section_headers, flags;
    uint16_t header_size, program_header_size, program_header_count;
};

struct program_header {
    uint32_t type, offset, address, physical, file_size, memory_size, flags, align;
};

#define MACHINE_386 3
#define TYPE_EXECUTABLE 2
#define TYPE_LOAD 1
#define FLAG_WRITABLE 2

#define EFLAGS_USER 0x202 /* IF, and the bit that is always 1 */

#define HEADERS_SIZE PAGE_SIZE /* the ELF and program headers are within this, from the file's start */

static int read_file(struct node *file, void *to, uint32_t offset, uint32_t size)
{
    return file->fs->read(file->number, to, offset, size);
}

/* The header, if it is one of a program that we can run; size bytes of the file are there. */
static const struct elf_header *check_header(const char *image, int size)
{
    const struct elf_header *h = (const void *)image;

    if (size < (int)sizeof *h || memcmp(h->ident, "\177ELF\1\1", 6) != 0 || h->type != TYPE_EXECUTABLE ||
        h->machine != MACHINE_386 || h->program_header_size != sizeof(struct program_header))
        return NULL;
    if (h->program_headers % 4 != 0 || h->program_headers > (uint32_t)size ||
        h->program_header_count > (size - h->program_headers) / sizeof(struct program_header))
        return NULL;
    return h;
}

static bool segment_fits(const struct program_header *s)
{
    return s->file_size <= s->memory_size && s->address >= USER_BASE && s->address % PAGE_SIZE == 0 &&
           s->address < USER_END - 2 * STACK_SIZE && s->memory_size < USER_END - 2 * STACK_SIZE - s->address;
}

/* What the file does not fill is left to demand-zero paging. The heap begins behind the last segment. */
static int load_segment(struct space *space, int index, struct node *file, const struct program_header *s)
{
    uint32_t end = page_up(s->address + s->memory_size);

    if (REGION_IMAGE + index >= MAX_REGIONS || !segment_fits(s))
        return -E_FORMAT;
    space->regions[REGION_IMAGE + index] = (struct region){s->address, end, s->flags & FLAG_WRITABLE};
    for (uint32_t done = 0; done < s->file_size; done += PAGE_SIZE) {
        uint32_t n = s->file_size - done < PAGE_SIZE ? s->file_size - done : PAGE_SIZE;
        void *page = space_page(space, s->address + done, false);
        if (!page)
            return -E_MEMORY;
        int got = read_file(file, page, s->offset + done, n);
        if (got != (int)n)
            return got < 0 ? got : -E_FORMAT;
    }
    if (end > space->heap_end) {
        space->heap_end = end;
        space->regions[REGION_HEAP] = (struct region){end, end, true};
    }
    return 0;
}

/* Must hold: headers is a page to read into. */
static int load_headed(struct space *space, struct node *file, char *headers, uint32_t *entry)
{
    int size = read_file(file, headers, 0, HEADERS_SIZE), error = 0, loaded = 0;
    const struct elf_header *h = check_header(headers, size);

    if (!h)
        return size == -E_IO ? size : -E_FORMAT;
    const struct program_header *s = (const void *)(headers + h->program_headers);
    for (int i = 0; i < h->program_header_count && !error; i++, s++)
        if (s->type == TYPE_LOAD && s->memory_size > 0)
            error = load_segment(space, loaded++, file, s);
    *entry = h->entry;
    return error;
}

static int load_image(struct space *space, struct node *file, uint32_t *entry)
{
    uint32_t frame = frame_allocate();

    if (!frame)
        return -E_MEMORY;
    int error = load_headed(space, file, to_virtual(frame), entry);
    frame_release(frame);
    return error;
}

/*
 * The stack as the i386 ABI wants it: argc, argv[0] ... NULL, and the strings above. All in the
 * topmost page. arguments holds strings with their NULs, size bytes in all.
 */
static int push_arguments(struct space *space, const char *arguments, uint32_t size, uint32_t *esp)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < size; i++)
        count += arguments[i] == 0;
    uint32_t strings = (USER_END - size) & ~3u;
    *esp = strings - (count + 2) * 4;
    if (size > PAGE_SIZE || *esp < USER_END - PAGE_SIZE)
        return -E_TOOBIG;
    char *page = space_page(space, USER_END - PAGE_SIZE, true);
    if (!page)
        return -E_MEMORY;
    memcpy(page + strings % PAGE_SIZE, arguments, size);
    uint32_t *word = (uint32_t *)(page + *esp % PAGE_SIZE);
    *word++ = count;
    for (uint32_t at = 0; at < size; at += strlen(arguments + at) + 1)
        *word++ = strings + at;
    *word = 0;
    return 0;
}

/* A name without a slash is that of a program in /bin. */
static int find_program(const char *name, struct node **file)
{
    char path[sizeof "/bin/" + FILE_NAME_SIZE];

    if (strchr(name, '/'))
        return node_open(name, file);
    if (strlen(name) >= FILE_NAME_SIZE)
        return -E_NOTFOUND;
    snprintf(path, sizeof path, "/bin/%s", name);
    return node_open(path, file);
}

/*
 * Make a process run another program. If that fails, nothing has happened to it. The process is the
 * current one, or a new one without memory.
 */
int exec(struct process *process, const char *name, const char *arguments, uint32_t size)
{
    struct node *file;
    struct space space, old;
    uint32_t entry, esp;
    int error = find_program(name, &file);

    if (error)
        return error;
    error = space_create(&space) ? load_image(&space, file, &entry) : -E_MEMORY;
    node_release(file);
    if (!error)
        error = push_arguments(&space, arguments, size, &esp);
    if (error) {
        space_destroy(&space);
        return error;
    }
    old = process->space;
    process->space = space;
    fpu_forget(process);
    if (process == current)
        load_directory(space.directory);
    space_destroy(&old);
    strlcpy(process->name, base_name(name), sizeof process->name);
    *process_frame(process) = (struct trap_frame){
        .ds = USER_DATA, .es = USER_DATA, .eip = entry, .cs = USER_CODE,
        .eflags = EFLAGS_USER, .esp = esp, .ss = USER_DATA,
    };
    return 0;
}
