/* sync: when it returns, everything written so far is on the disk. */
#include "user.h"

int main(void)
{
    int error = sync();

    if (error < 0)
        complain("sync: %s\n", error_text(error));
    return error < 0;
}
