/* mv FROM TO: give a file or directory another name on the same disk. TO may be a directory. */
#include "user.h"

int main(int argc, char **argv)
{
    char path[PATH_SIZE];
    struct file_status s;

    if (argc != 3) {
        complain("usage: mv FROM TO\n");
        return 1;
    }
    strlcpy(path, argv[2], sizeof path);
    if (stat(path, &s) == 0 && s.type == TYPE_DIRECTORY)
        snprintf(path, sizeof path, "%s/%s", argv[2], base_name(argv[1]));
    int error = rename(argv[1], path);
    if (error < 0)
        complain("mv: %s: %s\n", path, error_text(error));
    return error < 0;
}
