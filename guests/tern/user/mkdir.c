/* mkdir PATH ...: make directories. */
#include "user.h"

int main(int argc, char **argv)
{
    int result = 0;

    for (int i = 1; i < argc; i++) {
        int error = mkdir(argv[i]);
        if (error < 0) {
            complain("mkdir: %s: %s\n", argv[i], error_text(error));
            result = 1;
        }
    }
    return result;
}
