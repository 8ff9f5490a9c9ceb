/* poweroff [STATUS]: end the machine. */
#include "user.h"

int main(int argc, char **argv)
{
    poweroff(argc > 1 ? number_or(argv[1], 1) : 0);
}
