/* kill PID ...: end processes. */
#include "user.h"

static int kill_named(const char *pid)
{
    uint32_t value;

    return number(pid, &value) ? kill(value) : -E_INVALID;
}

int main(int argc, char **argv)
{
    return each_argument(argc, argv, kill_named);
}
