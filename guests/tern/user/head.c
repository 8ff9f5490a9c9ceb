/* head -c BYTES [FILE ...]: the beginning of files, or of what is read. */
#include "user.h"

static uint32_t wanted;

static int print_beginning(int file, const char *name)
{
    return print_file(file, wanted);
}

int main(int argc, char **argv)
{
    if (argc < 3 || strcmp(argv[1], "-c") != 0 || !number(argv[2], &wanted))
        return usage("head -c BYTES [FILE ...]");
    argv[2] = argv[0];
    return each_file(argc - 2, argv + 2, print_beginning);
}
