/* cat [FILE ...]: print files, or what is read. */
#include "user.h"

static int copy(int file, const char *name)
{
    static char buffer[4096];
    int n;

    while ((n = read(file, buffer, sizeof buffer)) > 0)
        if (write(1, buffer, n) < 0)
            exit(1);
    return n;
}

int main(int argc, char **argv)
{
    return each_file(argc, argv, copy);
}
