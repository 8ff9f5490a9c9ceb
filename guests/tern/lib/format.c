/* printf into a buffer. */
#include "lib.h"

struct output {
    char *buffer;
    size_t size, length; /* length < size always: there is room for the NUL */
};

static void put(struct output *out, char c)
{
    if (out->length + 1 < out->size)
        out->buffer[out->length++] = c;
}

/* One converted argument, padded to the width: with zeros or blanks before it, or blanks after it. */
static void put_padded(struct output *out, const char *text, int width, char flag)
{
    int length = strlen(text);

    if (flag == '0' && *text == '-') {
        put(out, *text++);
        length--, width--;
    }
    if (flag != '-')
        for (int i = length; i < width; i++)
            put(out, flag == '0' ? '0' : ' ');
    while (*text)
        put(out, *text++);
    if (flag == '-')
        for (int i = length; i < width; i++)
            put(out, ' ');
}

/* The digits of value, written backwards from the end of a buffer; returns where they begin. */
static char *digits(char *end, uint32_t value, uint32_t base)
{
    *--end = 0;
    do
        *--end = "0123456789abcdef"[value % base];
    while ((value /= base) != 0);
    return end;
}

int vsnprintf(char *buffer, size_t size, const char *format, va_list arguments)
{
    struct output out = {buffer, size, 0};
    char number[16], *end = number + sizeof number;

    for (; *format; format++) {
        if (*format != '%') {
            put(&out, *format);
            continue;
        }
        char flag = 0;
        int width = 0;
        for (format++; *format == '-' || (*format == '0' && width == 0); format++)
            flag = *format;
        for (; *format >= '0' && *format <= '9'; format++)
            width = width * 10 + *format - '0';

        int value;
        switch (*format) {
        case 'd':
            value = va_arg(arguments, int);
            char *text = digits(end, value < 0 ? -(uint32_t)value : (uint32_t)value, 10);
            if (value < 0)
                *--text = '-';
            put_padded(&out, text, width, flag);
            break;
        case 'u':
            put_padded(&out, digits(end, va_arg(arguments, uint32_t), 10), width, flag);
            break;
        case 'x':
            put_padded(&out, digits(end, va_arg(arguments, uint32_t), 16), width, flag);
            break;
        case 'p': /* always as 0x and eight digits */
            put(&out, '0');
            put(&out, 'x');
            put_padded(&out, digits(end, va_arg(arguments, uint32_t), 16), 8, '0');
            break;
        case 's':
            put_padded(&out, va_arg(arguments, const char *), width, flag);
            break;
        case 'c':
            put(&out, (char)va_arg(arguments, int));
            break;
        case 0:
            format--;
            break;
        default:
            put(&out, *format);
        }
    }
    if (size > 0)
        buffer[out.length] = 0;
    return out.length;
}

int snprintf(char *buffer, size_t size, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    int length = vsnprintf(buffer, size, format, arguments);
    va_end(arguments);
    return length;
}
