/*
 * Reading order 14. Physical memory, in frames of 4 KiB.
 *
 * There is a record for each frame. Free frames form a list through their records, not through the
 * frames themselves: a free frame is never touched, so a monitor need not copy it. The list is last
 * in, first out, which keeps the kernel in a small set of frames.
 */
#include "kernel.h"

#define FIRST_USED 0x100000 /* the first MiB is left to firmware and devices */

struct frame {
    uint32_t next;       /* frame number; valid while references == 0 */
    uint32_t references; /* how many page table entries or owners there are; 0: free or not RAM */
};

static struct frame *frames; /* indexed by frame number */
static uint32_t first_free;  /* frame number, 0: none */
static struct memory_info count;

uint32_t ram_end;

static bool overlaps(struct range a, uint32_t start, uint32_t end)
{
    return a.start < end && start < a.end;
}

/* The range as whole pages above FIRST_USED; empty if start >= end. */
static struct range whole_pages(struct range r)
{
    uint32_t start = page_up(r.start);
    return (struct range){start < FIRST_USED ? FIRST_USED : start, page_down(r.end)};
}

/* If [start, end) is occupied from the beginning: where what occupies it ends. Else 0. */
static uint32_t occupied_until(uint32_t start, uint32_t end)
{
    extern const char kernel_end[];
    uint32_t image_end = page_up(to_physical(kernel_end));
    uint32_t table = frames ? to_physical(frames) : 0;
    uint32_t table_end = table + page_up((ram_end / PAGE_SIZE) * sizeof *frames);

    if (overlaps((struct range){KERNEL_LOAD, image_end}, start, end))
        return image_end;
    if (frames && overlaps((struct range){table, table_end}, start, end))
        return table_end;
    for (int i = 0; i < bootinfo.modules; i++)
        if (overlaps(bootinfo.module[i].range, start, end))
            return page_up(bootinfo.module[i].range.end);
    return 0;
}

/* The frame table goes to the first place that holds it; it must be in the boot map. */
static void place_table(uint32_t size)
{
    for (int i = 0; i < bootinfo.ranges; i++) {
        struct range r = whole_pages(bootinfo.usable[i]);
        uint32_t start = r.start, end;
        while (start < r.end && r.end - start >= size && start + size <= BOOT_MAP_SIZE) {
            if ((end = occupied_until(start, start + size)) == 0) {
                frames = to_virtual(start);
                memset(frames, 0, size);
                return;
            }
            start = end;
        }
    }
    panic("no place for %u KiB of frame table", size >> 10);
}

/* From the top down, so that the lowest frames come off the list first. */
static void free_range(struct range r)
{
    for (uint32_t at = r.end; at > r.start; at -= PAGE_SIZE) {
        uint32_t frame = at - PAGE_SIZE;
        count.total++;
        if (occupied_until(frame, at)) {
            count.reserved++;
            continue;
        }
        frames[frame / PAGE_SIZE].next = first_free;
        first_free = frame / PAGE_SIZE;
        count.free++;
    }
}

void frames_init(void)
{
    for (int i = 0; i < bootinfo.ranges; i++)
        if (page_down(bootinfo.usable[i].end) > ram_end)
            ram_end = page_down(bootinfo.usable[i].end);
    place_table(page_up(ram_end / PAGE_SIZE * sizeof *frames));
    for (int i = bootinfo.ranges - 1; i >= 0; i--) {
        struct range r = whole_pages(bootinfo.usable[i]);
        if (r.start < r.end)
            free_range(r);
    }
}

static struct frame *record(uint32_t frame)
{
    struct frame *f = &frames[frame / PAGE_SIZE];

    assert(frame % PAGE_SIZE == 0 && frame < ram_end && f->references > 0);
    return f;
}

/* A frame with one reference and undefined contents, or 0 if there is none left. */
uint32_t frame_allocate(void)
{
    uint32_t number = first_free;

    if (number == 0)
        return 0;
    first_free = frames[number].next;
    frames[number].references = 1;
    count.free--;
    count.used++;
    return number * PAGE_SIZE;
}

uint32_t frame_allocate_zeroed(void)
{
    uint32_t frame = frame_allocate();

    if (frame)
        memset(to_virtual(frame), 0, PAGE_SIZE);
    return frame;
}

void frame_share(uint32_t frame)
{
    record(frame)->references++;
}

void frame_release(uint32_t frame)
{
    struct frame *f = record(frame);

    if (--f->references > 0)
        return;
    f->next = first_free;
    first_free = frame / PAGE_SIZE;
    count.free++;
    count.used--;
}

int frame_references(uint32_t frame)
{
    return record(frame)->references;
}

void frames_info(struct memory_info *info)
{
    *info = count;
}
