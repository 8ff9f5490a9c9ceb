/*
 * Reading order 19. The floating-point unit, switched lazily: its registers stay those of the process
 * that used them last, the owner. While another one runs, CR0.TS is set, so that its first
 * floating-point instruction raises #NM; only then are the registers exchanged (Intel SDM 3A, 13.4.1).
 *
 * Invariant, whenever ring 3 runs: CR0.TS is clear exactly if the running process is the owner. The
 * kernel itself computes with integers only.
 */
#include "cpu.h"
#include "kernel.h"

#define CR0_MP 0x02 /* WAIT obeys TS too */
#define CR0_EM 0x04
#define CR0_TS 0x08
#define CR0_NE 0x20 /* errors raise #MF, not an interrupt of the 8259 as on the first PCs */
#define CR4_OSFXSR 0x200
#define CR4_OSXMMEXCPT 0x400

static struct process *owner; /* NULL: nobody */
static bool present, trapping = true;
static uint32_t cr0; /* with TS clear */

static void set_trapping(bool on)
{
    if (on == trapping || !present)
        return;
    trapping = on;
    if (on)
        write_cr0(cr0 | CR0_TS);
    else
        clts();
}

/* Is there one at all? A 486SX has none: its instructions do nothing then (Intel SDM 1, 22.9). */
static bool detect(void)
{
    volatile uint16_t status = 0x5a5a;

    __asm__ volatile("fninit\n\tfnstsw %0" : "=m"(status));
    return (status & 0xff) == 0;
}

void fpu_init(void)
{
    cr0 = (read_cr0() & ~(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE;
    write_cr0(cr0);
    present = detect();
    if (present && options.fxsr)
        set_cr4(CR4_OSFXSR | CR4_OSXMMEXCPT);
    write_cr0(cr0 | (present ? CR0_TS : CR0_EM));
}

const char *fpu_kind(void)
{
    return !present ? "none" : options.fxsr ? "fxsave" : "fnsave";
}

static void save(struct process *p)
{
    if (options.fxsr)
        __asm__ volatile("fxsave %0" : "=m"(p->fpu));
    else
        __asm__ volatile("fnsave %0" : "=m"(p->fpu));
}

/* FNINIT first: FRSTOR would report an error that the previous owner has left. */
static void restore(const struct process *p)
{
    __asm__ volatile("fninit");
    if (options.fxsr)
        __asm__ volatile("fxrstor %0" : : "m"(p->fpu));
    else
        __asm__ volatile("frstor %0" : : "m"(p->fpu));
}

/* SSE's control register at reset; FNINIT leaves it alone. */
static void initialize(void)
{
    static const uint32_t mxcsr = 0x1f80;

    __asm__ volatile("fninit");
    if (options.fxsr)
        __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
}

/* #NM: the running process wants it. Says whether it can have it. */
bool fpu_use(void)
{
    if (!present)
        return false;
    set_trapping(false);
    if (owner)
        save(owner);
    owner = current;
    if (current->fpu_used)
        restore(current);
    else
        initialize();
    current->fpu_used = true;
    return true;
}

/* Another process is about to run. */
void fpu_switch(const struct process *next)
{
    set_trapping(next != owner);
}

/* A child begins with its parent's registers. */
void fpu_inherit(struct process *child)
{
    if (owner == current) {
        save(current);
        owner = NULL;
        set_trapping(true);
    }
    child->fpu_used = current->fpu_used;
    child->fpu = current->fpu;
}

/* The process ends, or begins another program. */
void fpu_forget(struct process *p)
{
    p->fpu_used = false;
    if (owner != p)
        return;
    owner = NULL;
    set_trapping(true);
}
