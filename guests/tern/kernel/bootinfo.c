/*
 * Reading order 3. The multiboot information (Multiboot Specification 0.6.96, 3.3), copied before
 * its memory is used for something else. It and its strings must lie in the boot map.
 */
#include "kernel.h"

#define BOOTLOADER_MAGIC 0x2BADB002
#define HAS_MEMORY 0x001
#define HAS_COMMAND_LINE 0x004
#define HAS_MODULES 0x008
#define HAS_MEMORY_MAP 0x040

struct multiboot {
    uint32_t flags;
    uint32_t lower, upper; /* KiB from 0 and from 1 MiB */
    uint32_t boot_device;
    uint32_t command_line;
    uint32_t module_count, modules;
    uint32_t symbols[4];
    uint32_t map_length, map;
};

struct multiboot_module {
    uint32_t start, end, string, reserved;
};

struct __attribute__((packed)) multiboot_range {
    uint32_t size; /* of the rest */
    uint64_t base, length;
    uint32_t type; /* 1: usable RAM */
};

struct bootinfo bootinfo;

static const void *boot_pointer(uint32_t physical, uint32_t size)
{
    if (physical >= BOOT_MAP_SIZE || size > BOOT_MAP_SIZE - physical)
        panic("boot information at %p lies above %u MiB", (void *)physical, BOOT_MAP_SIZE >> 20);
    return to_virtual(physical);
}

static void add_usable(uint64_t start, uint64_t end)
{
    if (end > DIRECT_MAP_SIZE)
        end = DIRECT_MAP_SIZE;
    if (start < end && bootinfo.ranges < MAX_RANGES)
        bootinfo.usable[bootinfo.ranges++] = (struct range){start, end};
}

static void read_memory_map(const struct multiboot *m)
{
    if (!(m->flags & HAS_MEMORY_MAP)) {
        if (!(m->flags & HAS_MEMORY))
            panic("the boot loader does not say how much memory there is");
        add_usable(0, m->lower * 1024);
        add_usable(0x100000, 0x100000 + (uint64_t)m->upper * 1024);
        return;
    }
    const char *at = boot_pointer(m->map, m->map_length), *end = at + m->map_length;
    while (at < end) {
        const struct multiboot_range *r = (const void *)at;
        if (r->type == 1)
            add_usable(r->base, r->base + r->length);
        at += r->size + sizeof r->size;
    }
}

/* The module's file name without its directories: the rest depends on where we were started. */
static const char *module_name(const char *name)
{
    const char *base = name;

    for (; *name && *name != ' '; name++)
        if (*name == '/')
            base = name + 1;
    return base;
}

static void read_modules(const struct multiboot *m)
{
    const struct multiboot_module *from = boot_pointer(m->modules, m->module_count * sizeof *from);

    for (uint32_t i = 0; i < m->module_count; i++, from++) {
        if (bootinfo.modules == MAX_MODULES)
            panic("more than %d modules", MAX_MODULES);
        struct module *to = &bootinfo.module[bootinfo.modules++];
        to->range = (struct range){from->start, from->end};
        if (from->string)
            strlcpy(to->name, module_name(boot_pointer(from->string, sizeof to->name)), sizeof to->name);
    }
}

static void read_command_line(const struct multiboot *m)
{
    const char *from = boot_pointer(m->command_line, sizeof bootinfo.command_line);

    strlcpy(bootinfo.command_line, from, sizeof bootinfo.command_line);
    if (strlen(bootinfo.command_line) == sizeof bootinfo.command_line - 1)
        panic("the command line is longer than %u characters", sizeof bootinfo.command_line - 2);
}

void bootinfo_init(uint32_t magic, uint32_t physical)
{
    if (magic != BOOTLOADER_MAGIC)
        panic("not started by a multiboot loader (magic %x)", magic);
    const struct multiboot *m = boot_pointer(physical, sizeof *m);

    read_memory_map(m);
    if (m->flags & HAS_MODULES)
        read_modules(m);
    if (m->flags & HAS_COMMAND_LINE)
        read_command_line(m);
}
