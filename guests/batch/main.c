/* The frame around the cases: memory before, and what an event left behind. */
#include "batch.h"

enum { COM1 = 0x3f8, FIFO = COM1 + 2, LINE = COM1 + 3, EIGHT_BITS = 3, PIC_MASK = 0x21 };
enum { RF = 1 << 16, VM = 1 << 17, WITH_ERROR_CODE = 0x27d00, DOUBLE_FAULT = 8, PAGE_FAULT = 14, RETURNED = 0x40 };
enum { PAGING = 0x80010011, MEMORY_PAGES = 4096, SUPERVISOR = 0x63, ANYBODY = 0x27 };

void begin(const struct test_case *);

static const struct batch *batch;
static struct result *result;

static void copy(void *to, const void *from, uint32_t size)
{
    uint32_t words = size / 4;

    asm volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
}

/* A sum in which place matters. */
static uint32_t sum(const uint32_t *words, uint32_t size)
{
    uint32_t total = 0, turned = 0;

    for (const uint32_t *end = words + size / 4; words < end; words += 4) {
        total += words[0] ^ words[1] << 7 ^ words[2] << 14 ^ words[3] << 21;
        turned = (turned ^ words[0] ^ words[1] ^ words[2] ^ words[3]) * 5 + 1;
    }
    return total ^ turned * 0x9e3779b1u;
}

static void put_back(const struct region *region)
{
    copy((void *)region->to, (const char *)batch + region->from, region->size);
}

/*
 * RF in EFLAGS that were saved earlier: before the double fault, if the first push went well; and where the case
 * went on from a gate of its own, which leads to one of two places.
 */
static void clear_earlier_frame(void)
{
    uint32_t esp = result->esp + (result->ss == BASED_DATA ? ARENA : 0), *stack = (uint32_t *)esp, eip = result->eip;

    if (esp <= ARENA || esp > ARENA + ARENA_SIZE - 16)
        return;
    if (result->vector == DOUBLE_FAULT)
        stack[-1] &= ~RF;
    if (eip >= AFTER_GATE && eip < AFTER_GATE_END)
        stack[eip >= AFTER_GATE_WITH_ERROR ? 3 : 2] &= ~RF;
}

static void rest(void)
{
    struct result *r = result;
    struct tss *tss = (struct tss *)TSSS;

    asm volatile("movl %%cr0, %0" : "=r"(r->cr0));
    asm volatile("movl %%cr2, %0" : "=r"(r->cr2));
    asm volatile("movl %%cr3, %0" : "=r"(r->cr3));
    asm volatile("movl %%cr4, %0" : "=r"(r->cr4));
    asm volatile("movl %%db6, %0" : "=r"(r->dr6));
    asm volatile("movl %%db7, %0" : "=r"(r->dr7));
    for (int i = 0; i < TSS_COUNT; i++)
        ((struct tss *)((char *)tss + i * TSS_SPACE))->eflags &= ~RF;
    for (uint32_t i = 0; i < batch->region_count; i++) {
        const struct region *region = &batch->regions[i];
        r->sums[i] = sum((const uint32_t *)region->to, region->size);
        if (i == 0) {
            /* The page table: all the others can be read from here on. */
            put_back(region);
            asm volatile("movl %0, %%cr3" : : "r"(DIRECTORY) : "memory");
            clear_earlier_frame();
        }
    }
}

static uint32_t has_error_code(uint32_t vector)
{
    return vector < 32 && (WITH_ERROR_CODE >> vector & 1);
}

void record(struct frame *frame)
{
    struct result *r = result;
    uint32_t *pushed = frame->pushed;

    r->vector = frame->vector;
    if (has_error_code(frame->vector)) {
        if (frame->vector != PAGE_FAULT) {
            r->hidden |= (*pushed & 1) << 1;
            *pushed &= ~1u;
        }
        r->error = *pushed++;
    }
    r->hidden |= pushed[2] >> 16 & 1;
    pushed[2] &= ~RF;
    r->eip = pushed[0];
    r->cs = pushed[1];
    r->eflags = pushed[2];
    if (r->eflags & VM || r->cs & 3) {
        r->esp = pushed[3];
        r->ss = pushed[4] & 0xffff;
        if (r->eflags & VM) {
            r->v86_es = pushed[5];
            r->v86_ds = pushed[6];
            r->v86_fs = pushed[7];
            r->v86_gs = pushed[8];
        }
    } else {
        r->esp = (uint32_t)(pushed + 3);
    }
    copy(&r->edi, &frame->edi, 12);
    copy(&r->ebx, &frame->ebx, 16);
    r->ds_es = (frame->ds & 0xffff) | frame->es << 16;
    r->fs_gs = (frame->fs & 0xffff) | frame->gs << 16;
    rest();
}

/* What was going on is in the TSS that the fault's own task was entered from; they are TSS_A and its neighbours. */
void record_double_fault(void)
{
    struct result *r = result;
    const struct tss *own = (const struct tss *)(TSSS + 3 * TSS_SPACE), *t;
    uint32_t number = (own->link - TSS_A) / 8;

    t = (const struct tss *)(TSSS + (number < TSS_COUNT ? number : 0) * TSS_SPACE);
    r->vector = DOUBLE_FAULT;
    r->hidden = t->eflags >> 16 & 1;
    r->eip = t->eip;
    r->cs = t->cs & 0xffff;
    r->eflags = t->eflags & ~RF;
    r->esp = t->esp;
    r->ss = t->ss & 0xffff;
    r->edi = t->edi;
    r->esi = t->esi;
    r->ebp = t->ebp;
    r->ebx = t->ebx;
    r->edx = t->edx;
    r->ecx = t->ecx;
    r->eax = t->eax;
    r->ds_es = (t->ds & 0xffff) | t->es << 16;
    r->fs_gs = (t->fs & 0xffff) | t->gs << 16;
    rest();
}

/* Memory one to one and for the supervisor, none in the first MiB: what is there, the module maps. */
static void map_memory(void)
{
    uint32_t *directory = (uint32_t *)DIRECTORY, *tables = directory + 1024;

    for (uint32_t frame = 0; frame < MEMORY_PAGES; frame++)
        tables[frame] = frame < 256 ? 0 : frame << 12 | SUPERVISOR;
    for (uint32_t i = 0; i < 1024; i++)
        directory[i] = i < MEMORY_PAGES / 1024 ? (uint32_t)(tables + 1024 * i) | ANYBODY : 0;
}

/* Where far transfers lead: INT 0x40 from beginning to end, with 16-bit and with 32-bit operands. */
static void fill_landing_places(void)
{
    for (uint32_t base = 0; base <= SECOND_LANDING; base += SECOND_LANDING)
        for (uint32_t *word = (uint32_t *)(base + LANDING), *end = word + 1024; word < end; word++)
            *word = 0x40cd40cd;
}

static void lay_out(void)
{
    for (uint32_t i = 0; i < batch->region_count; i++)
        put_back(&batch->regions[i]);
}

static void run(const struct test_case *test)
{
    lay_out();
    for (uint32_t i = 0; i < test->poke_count; i++)
        *(uint32_t *)test->pokes[i].to = test->pokes[i].value;
    asm volatile("movl %0, %%cr3; movl %1, %%cr0; movl %2, %%db7" : : "r"(DIRECTORY), "r"(PAGING), "r"(0x400) : "memory");
    asm volatile("movl %0, %%db6" : : "r"(0xffff0ff0));
    asm volatile("movl %0, %%db0; movl %0, %%db1; movl %0, %%db2; movl %0, %%db3" : : "r"(0));
    asm volatile("movl %0, %%cr2" : : "r"(0));
    begin(test);
    asm volatile("movl %0, %%cr3; movl %1, %%cr0" : : "r"(DIRECTORY), "r"(PAGING) : "memory");
}

static void send(const void *from, uint32_t size)
{
    asm volatile("outb %0, %w1" : : "a"((uint8_t)EIGHT_BITS), "d"(LINE));
    asm volatile("outb %0, %w1" : : "a"((uint8_t)1), "d"(FIFO));
    asm volatile("rep outsb" : "+S"(from), "+c"(size) : "d"(COM1) : "memory");
}

/* The only thing that is needed of the Multiboot information: the first module. */
void main(const uint32_t *multiboot)
{
    const struct test_case *cases;
    char *to = (char *)RESULTS;

    asm volatile("outb %0, %w1" : : "a"((uint8_t)0xff), "Nd"(PIC_MASK));
    asm volatile("outb %0, %w1" : : "a"((uint8_t)0xff), "Nd"(PIC_MASK + 0x80));
    if (!(multiboot[0] & 8) || multiboot[5] == 0)
        return;
    batch = *(const struct batch **)multiboot[6];
    if (batch->magic != MAGIC)
        return;
    cases = (const struct test_case *)((const char *)batch + batch->cases);
    map_memory();
    fill_landing_places();
    lay_out();
    for (uint32_t i = 0; i < batch->count; i++) {
        result = (struct result *)to;
        run(&cases[i]);
        to += sizeof *result;
        if (batch->flags & WITH_MEMORY)
            for (uint32_t n = 0; n < batch->region_count; n++) {
                copy(to, (const void *)batch->regions[n].to, batch->regions[n].size);
                to += batch->regions[n].size;
            }
    }
    if (batch->flags & TO_SERIAL)
        send((const void *)RESULTS, to - (char *)RESULTS);
}
