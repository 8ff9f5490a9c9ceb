/* cat [FILE ...]: print files, or what is read. */
#include "user.h"

static int print_whole(int file, const char *name)
{
    return print_file(file, 0xffffffff);
}

int main(int argc, char **argv)
{
    return each_file(argc, argv, print_whole);
}
