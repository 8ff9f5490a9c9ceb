/*
 * Reading order 13. The end, expected or not.
 */
#include "cpu.h"
#include "kernel.h"

#define DEBUG_EXIT 0xf4 /* QEMU's isa-debug-exit; nothing on real machines */

void power_off(int status)
{
    interrupts_off();
    uart_flush();
    out8(DEBUG_EXIT, status);
    kprintf("it is now safe to turn off the machine");
    uart_flush();
    for (;;)
        hlt(); /* with interrupts off: forever */
}

/* The kernel's functions by address; {0, 0} ends them. Made from the kernel itself (tern.mk). */
struct symbol {
    uint32_t address;
    const char *name;
};
extern const struct symbol symbols[];

static void print_place(const char *what, uint32_t address)
{
    const struct symbol *s = symbols;

    if (!s->address || address < s->address) {
        kprintf("  %s %08x", what, address);
        return;
    }
    while (s[1].address && s[1].address <= address)
        s++;
    kprintf("  %s %08x %s+0x%x", what, address, s->name, address - s->address);
}

/* Each frame begins with the caller's EBP and the return address; callers are further up, always. */
static void backtrace(const uint32_t *ebp)
{
    extern const char kernel_start[], read_only_end[];

    for (int i = 0; i < 16 && (uint32_t)ebp >= KERNEL_BASE && (uint32_t)ebp % 4 == 0; i++) {
        if (ebp[1] < (uint32_t)kernel_start || ebp[1] >= (uint32_t)read_only_end)
            break;
        print_place("called from", ebp[1]);
        if (ebp[0] <= (uint32_t)ebp)
            break;
        ebp = (const uint32_t *)ebp[0];
    }
}

static void begin_panic(void)
{
    static bool panicking;

    interrupts_off();
    if (panicking)
        power_off(PANIC_STATUS);
    panicking = true;
}

void panic(const char *format, ...)
{
    char text[200];
    va_list arguments;

    begin_panic();
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    kprintf("panic: %s", text);
    backtrace(__builtin_frame_address(0));
    power_off(PANIC_STATUS);
}

/* The kernel itself made an exception happen. No stack switch took place, so ESP was where the
 * processor's part of the frame ends. */
void panic_frame(const struct trap_frame *f, const char *reason)
{
    begin_panic();
    kprintf("panic: %s in the kernel, error %x, process %d (%s)", reason, f->error, current->pid,
            current->name);
    kprintf("  eax %08x  ebx %08x  ecx %08x  edx %08x", f->eax, f->ebx, f->ecx, f->edx);
    kprintf("  esi %08x  edi %08x  ebp %08x  esp %08x", f->esi, f->edi, f->ebp, (uint32_t)&f->esp);
    kprintf("  eflags %08x  cr0 %08x  cr2 %08x  cr3 %08x", f->eflags, read_cr0(), read_cr2(), read_cr3());
    print_place("at", f->eip);
    backtrace((const uint32_t *)f->ebp);
    power_off(PANIC_STATUS);
}
