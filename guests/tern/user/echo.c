/* echo WORD ...: print the words. */
#include "user.h"

int main(int argc, char **argv)
{
    char line[256] = "";
    int length = 0;

    for (int i = 1; i < argc; i++)
        length += snprintf(line + length, sizeof line - length, i > 1 ? " %s" : "%s", argv[i]);
    printf("%s\n", line);
    return 0;
}
