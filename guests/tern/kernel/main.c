/*
 * Reading order 2. The kernel starts here, on the boot stack, with interrupts off.
 */
#include "kernel.h"

static void banner(void)
{
    kprintf("a small kernel for a small machine");
    kprintf("memory: %u MiB", (ram_end + 0xfffff) >> 20);
    kprintf("command line: %s", bootinfo.command_line);
    for (int i = 0; i < bootinfo.modules; i++) {
        const struct module *m = &bootinfo.module[i];
        kprintf("module: %s, %u bytes", m->name, m->range.end - m->range.start);
    }
}

void kernel_main(uint32_t magic, uint32_t boot_information)
{
    segments_init();
    traps_init();
    pic_init(); /* before the first device may ask for an interrupt */
    uart_init();
    bootinfo_init(magic, boot_information);
    options_init(bootinfo.command_line);
    frames_init();
    paging_init();
    if (!options.quiet)
        banner();
    if (options.crash)
        *(volatile uint32_t *)kernel_main = 0; /* the kernel's code is read-only */
    fpu_init();
    archive_init();
    nodes_mount("dev", &devices_fs);
    nodes_mount("proc", &view_fs);
    timer_init();
    disk_init();
    ternfs_mount();
    process_init();
    process_idle();
}
