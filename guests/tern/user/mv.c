/* mv FROM TO: give a file or directory another name on the same disk. TO may be a directory. */
#include "user.h"

int main(int argc, char **argv)
{
    char path[PATH_SIZE];

    if (argc != 3) {
        complain("usage: mv FROM TO\n");
        return 1;
    }
    target_path(path, argv[1], argv[2]);
    int error = rename(argv[1], path);
    if (error < 0)
        complain("mv: %s: %s\n", path, error_text(error));
    return error < 0;
}
