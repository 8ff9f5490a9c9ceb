/* mv FROM TO: give a file or directory another name on the same disk, in place of what
 * had it. TO may be a directory, and the file goes into it. */
#include "user.h"

int main(int argc, char **argv)
{
    char path[PATH_SIZE];

    if (argc != 3)
        return usage("mv FROM TO");
    target_path(path, argv[1], argv[2]);
    int error = rename(argv[1], path);
    return error < 0 ? fail("mv", path, error) : 0;
}
