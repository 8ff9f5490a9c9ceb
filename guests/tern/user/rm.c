/* rm PATH ...: remove files and empty directories. */
#include "user.h"

int main(int argc, char **argv)
{
    int result = 0;

    for (int i = 1; i < argc; i++) {
        int error = unlink(argv[i]);
        if (error < 0) {
            complain("rm: %s: %s\n", argv[i], error_text(error));
            result = 1;
        }
    }
    return result;
}
