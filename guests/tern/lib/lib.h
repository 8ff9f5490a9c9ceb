/* What the kernel and its programs share: the few parts of a C library that they need. */
#ifndef LIB_H
#define LIB_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

void *memset(void *to, int byte, size_t length);
void *memcpy(void *to, const void *from, size_t length);
void *memmove(void *to, const void *from, size_t length);
int memcmp(const void *a, const void *b, size_t length);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t length);
char *strchr(const char *s, int c);

/* The last name of a path. */
const char *base_name(const char *path);

/* Copy at most size - 1 characters and end with a NUL, always (unlike strncpy). */
void strlcpy(char *to, const char *from, size_t size);

/*
 * printf into a buffer: %d %u %x %c %s %p %%, with a width, '-' and '0'. Writes at most size - 1
 * characters and a NUL; returns how many it wrote.
 */
int vsnprintf(char *buffer, size_t size, const char *format, va_list arguments);
int snprintf(char *buffer, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
