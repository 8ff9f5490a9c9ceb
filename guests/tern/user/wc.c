/* wc [FILE ...]: lines, words and bytes. */
#include "user.h"

static int count(int file, const char *name)
{
    static char buffer[4096];
    uint32_t lines = 0, words = 0, bytes = 0;
    bool in_word = false;
    int n;

    while ((n = read(file, buffer, sizeof buffer)) > 0) {
        bytes += n;
        for (int i = 0; i < n; i++) {
            bool blank = strchr(" \t\r\n", buffer[i]) != NULL;
            lines += buffer[i] == '\n';
            words += !blank && !in_word;
            in_word = !blank;
        }
    }
    if (n < 0)
        complain("wc: %s: %s\n", name, error_text(n));
    else
        printf("%7u %7u %7u%s%s\n", lines, words, bytes, *name ? " " : "", name);
    return n < 0;
}

int main(int argc, char **argv)
{
    int result = 0;

    if (argc < 2)
        return count(0, "");
    for (int i = 1; i < argc; i++) {
        int file = open_or_complain("wc", argv[i], OPEN_READ);
        if (file < 0 || count(file, argv[i]) != 0)
            result = 1;
        close(file);
    }
    return result;
}
