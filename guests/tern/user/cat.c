/* cat [FILE ...]: print files, or what is read. */
#include "user.h"

static int copy(int file, const char *name)
{
    static char buffer[4096];
    int n;

    while ((n = read(file, buffer, sizeof buffer)) > 0)
        if (write(1, buffer, n) < 0)
            return 1;
    if (n < 0)
        complain("cat: %s: %s\n", name, error_text(n));
    return n < 0;
}

int main(int argc, char **argv)
{
    int result = 0;

    if (argc < 2)
        return copy(0, "input");
    for (int i = 1; i < argc; i++) {
        int file = open_or_complain("cat", argv[i], OPEN_READ);
        if (file < 0 || copy(file, argv[i]) != 0)
            result = 1;
        close(file);
    }
    return result;
}
