/*
 * probes: a kernel that programs every device of the ISA PC in every way it knows, and prints what it
 * reads back, one line for each probe:
 *
 *     uart scratch: 00 ff 5a
 *     ~pit count after load: fffd          (a ~ in front: depends on time, not to be compared)
 *
 * The output is collected in memory and sent at the end of each part, for COM1 is probed too.
 */
#ifndef PROBES_H
#define PROBES_H

#include <stdbool.h>
#include <stdint.h>

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint16_t in16(uint16_t port)
{
    uint16_t value;
    asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint32_t in32(uint16_t port)
{
    uint32_t value;
    asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline void out8(uint16_t port, uint8_t value)
{
    asm volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out16(uint16_t port, uint16_t value)
{
    asm volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out32(uint16_t port, uint32_t value)
{
    asm volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void in16_many(uint16_t port, void *to, uint32_t count)
{
    asm volatile("cld; rep insw" : "+D"(to), "+c"(count) : "d"(port) : "memory");
}

static inline void out16_many(uint16_t port, const void *from, uint32_t count)
{
    asm volatile("cld; rep outsw" : "+S"(from), "+c"(count) : "d"(port) : "memory");
}

/* One line: begin, any number of values, end. */
void begin(const char *name);
void b(uint8_t value);
void w(uint16_t value);
void l(uint32_t value);
void end(void);
void text(const char *words);
void part(const char *name); /* a heading; what was collected goes out */

/* Interrupts: vector 0x20 + line counts in `taken`, in order in `order`, and is ended if `answer` is set. */
extern volatile uint32_t taken[16];
extern volatile uint8_t order[32];
extern volatile uint32_t orders;
extern volatile bool answer;
void forget_interrupts(void);
void window(void);                          /* let the interrupts in that wait */
bool wait_for(int line, uint32_t number);   /* halt until so many have come; false after 10,000 others */
bool spin_for(int line, uint32_t number);   /* the same without halting, so that no time is skipped */
void pics(uint16_t enabled);                /* both 8259s afresh, with only these lines let through */

void probe_pic(void);
void probe_pit(void);
void probe_uart(void);
void probe_rtc(void);
void probe_i8042(void);
void probe_ide(void);

#endif
