/* sleep MILLISECONDS */
#include "user.h"

int main(int argc, char **argv)
{
    sleep(argc > 1 ? number_or(argv[1], 0) : 1000);
    return 0;
}
