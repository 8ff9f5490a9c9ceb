/* cp FROM TO: copy a file. TO may be a directory. */
#include "user.h"

int main(int argc, char **argv)
{
    static char buffer[4096], path[PATH_SIZE];
    int n;

    if (argc != 3)
        return usage("cp FROM TO");
    target_path(path, argv[1], argv[2]);
    int from = open_or_complain("cp", argv[1], OPEN_READ);
    if (from < 0)
        return 1;
    int to = open_or_complain("cp", path, OPEN_WRITE | OPEN_CREATE | OPEN_TRUNCATE);
    if (to < 0)
        return 1;
    while ((n = read(from, buffer, sizeof buffer)) > 0) {
        int written = write(to, buffer, n);
        if (written < n)
            return fail("cp", path, written < 0 ? written : -E_NOSPACE);
    }
    return n < 0 ? fail("cp", argv[1], n) : 0;
}
