/* rm PATH ...: remove files and empty directories. */
#include "user.h"

int main(int argc, char **argv)
{
    return each_argument(argc, argv, unlink);
}
