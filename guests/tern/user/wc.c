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
    if (n == 0)
        printf("%7u %7u %7u%s%s\n", lines, words, bytes, *name ? " " : "", name);
    return n;
}

int main(int argc, char **argv)
{
    return each_file(argc, argv, count);
}
