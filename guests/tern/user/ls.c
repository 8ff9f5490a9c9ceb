/* ls [PATH ...]: files and directories, with their kind and size. Devices and views have no size. */
#include "user.h"

static void show(const char *path, const char *name)
{
    static const char kinds[] = "?-dcp";
    struct file_status s;
    int error = stat(path, &s);

    if (error < 0)
        fail("ls", path, error);
    else
        printf("%c %8u %s\n", kinds[s.type], s.size, name);
}

static int list(const char *path)
{
    struct directory_entry e;
    char full[PATH_SIZE];
    int directory = open_or_complain("ls", path, OPEN_READ);

    if (directory < 0)
        return 1;
    while (readdir(directory, &e) > 0) {
        snprintf(full, sizeof full, "%s/%s", path, e.name);
        show(full, e.name);
    }
    close(directory);
    return 0;
}

int main(int argc, char **argv)
{
    static char *here[] = {"ls", "."};
    int result = 0;

    if (argc < 2) {
        argc = 2;
        argv = here;
    }
    for (int i = 1; i < argc; i++) {
        struct file_status s;
        if (stat(argv[i], &s) == 0 && s.type != TYPE_DIRECTORY)
            show(argv[i], argv[i]);
        else
            result |= list(argv[i]);
    }
    return result;
}
