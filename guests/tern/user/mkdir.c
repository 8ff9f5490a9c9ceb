/* mkdir PATH ...: make directories. */
#include "user.h"

int main(int argc, char **argv)
{
    return each_argument(argc, argv, mkdir);
}
