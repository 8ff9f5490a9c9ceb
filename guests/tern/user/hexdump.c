/* hexdump [FILE [BYTES]]: bytes in hexadecimal and as characters, sixteen in a line. */
#include "user.h"

static void show(uint32_t offset, const uint8_t *bytes, int n)
{
    char text[17] = "";

    char line[80];
    int length = snprintf(line, sizeof line, "%08x ", offset);
    for (int i = 0; i < 16; i++) {
        if (i < n)
            length += snprintf(line + length, sizeof line - length, " %02x", bytes[i]);
        else
            length += snprintf(line + length, sizeof line - length, "   ");
        if (i < n)
            text[i] = bytes[i] >= ' ' && bytes[i] < 0x7f ? bytes[i] : '.';
    }
    printf("%s  |%s|\n", line, text);
}

int main(int argc, char **argv)
{
    uint8_t bytes[16];
    uint32_t limit = argc > 2 ? number_or(argv[2], 256) : 0xffffffff, offset = 0;
    int file = argc > 1 ? open_or_complain("hexdump", argv[1], OPEN_READ) : 0, n = 0, got;

    if (file < 0)
        return 1;
    while (offset + n < limit && (got = read(file, bytes + n, 16 - n)) > 0) {
        n += got;
        if (offset + n > limit)
            n = limit - offset;
        if (n < 16)
            continue; /* a pipe may give less than we ask for */
        show(offset, bytes, n);
        offset += n;
        n = 0;
    }
    if (n > 0)
        show(offset, bytes, n);
    return 0;
}
