/* kill PID ...: end processes. */
#include "user.h"

int main(int argc, char **argv)
{
    int result = 0;

    for (int i = 1; i < argc; i++) {
        uint32_t pid;
        int error = number(argv[i], &pid) ? kill(pid) : -E_INVALID;
        if (error < 0) {
            printf("kill: %s: %s\n", argv[i], error_text(error));
            result = 1;
        }
    }
    return result;
}
