/* Single instructions that C has no words for. */
#ifndef CPU_H
#define CPU_H

#include <stdint.h>

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

/* Sixteen-bit words from a port to memory, and back. */
static inline void in16_many(uint16_t port, void *to, uint32_t words)
{
    __asm__ volatile("rep insw" : "+D"(to), "+c"(words) : "d"(port) : "memory");
}

static inline void out16_many(uint16_t port, const void *from, uint32_t words)
{
    __asm__ volatile("rep outsw" : "+S"(from), "+c"(words) : "d"(port) : "memory");
}

static inline void cli(void) { __asm__ volatile("cli" : : : "memory"); }
static inline void sti(void) { __asm__ volatile("sti" : : : "memory"); }
static inline void hlt(void) { __asm__ volatile("hlt" : : : "memory"); }

static inline uint32_t read_cr0(void)
{
    uint32_t value;
    __asm__ volatile("movl %%cr0, %0" : "=r"(value));
    return value;
}

static inline void write_cr0(uint32_t value) { __asm__ volatile("movl %0, %%cr0" : : "r"(value) : "memory"); }
static inline void clts(void) { __asm__ volatile("clts" : : : "memory"); }

static inline uint32_t read_cr2(void)
{
    uint32_t value;
    __asm__ volatile("movl %%cr2, %0" : "=r"(value));
    return value;
}

static inline uint32_t read_cr3(void)
{
    uint32_t value;
    __asm__ volatile("movl %%cr3, %0" : "=r"(value));
    return value;
}

/* Also forgets all translations of the old page directory. */
static inline void write_cr3(uint32_t value) { __asm__ volatile("movl %0, %%cr3" : : "r"(value) : "memory"); }

/* Only on processors that have CR4 at all: the 486 has not. */
static inline void set_cr4(uint32_t bits)
{
    uint32_t value;
    __asm__ volatile("movl %%cr4, %0" : "=r"(value));
    __asm__ volatile("movl %0, %%cr4" : : "r"(value | bits) : "memory");
}

/* Forget the translation of one address. */
static inline void invlpg(uint32_t address)
{
    __asm__ volatile("invlpg (%0)" : : "r"(address) : "memory");
}

struct __attribute__((packed)) table_register {
    uint16_t limit;
    uint32_t base;
};

static inline void lgdt(const void *table, uint16_t size)
{
    struct table_register r = {size - 1, (uint32_t)table};
    __asm__ volatile("lgdt %0" : : "m"(r) : "memory");
}

static inline void lidt(const void *table, uint16_t size)
{
    struct table_register r = {size - 1, (uint32_t)table};
    __asm__ volatile("lidt %0" : : "m"(r) : "memory");
}

static inline void ltr(uint16_t selector) { __asm__ volatile("ltr %0" : : "r"(selector)); }

#endif
