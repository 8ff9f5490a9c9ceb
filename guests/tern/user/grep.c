/*
 * grep [-v] PATTERN [FILE ...]: lines in which the pattern is found, or with -v is not. The pattern has
 * ^ and $ for the ends of the line, . for any character, and X* for any number of X.
 *
 * The matcher is after Rob Pike's in Kernighan and Pike, "The Practice of Programming" (1999), 9.2.
 */
#include "user.h"

static bool match_here(const char *pattern, const char *text);

static bool match_star(char c, const char *pattern, const char *text)
{
    do {
        if (match_here(pattern, text))
            return true;
    } while (*text && (*text++ == c || c == '.'));
    return false;
}

static bool match_here(const char *pattern, const char *text)
{
    if (!pattern[0])
        return true;
    if (pattern[1] == '*')
        return match_star(pattern[0], pattern + 2, text);
    if (pattern[0] == '$' && !pattern[1])
        return !*text;
    return *text && (pattern[0] == '.' || pattern[0] == *text) && match_here(pattern + 1, text + 1);
}

static bool match(const char *pattern, const char *text)
{
    if (pattern[0] == '^')
        return match_here(pattern + 1, text);
    do {
        if (match_here(pattern, text))
            return true;
    } while (*text++);
    return false;
}

/* Returns how many lines it printed. */
static int search(const char *pattern, bool inverted, int file, const char *name)
{
    static char line[1024];
    struct reader reader = {.file = file};
    int found = 0, length;

    while ((length = read_line(&reader, line, sizeof line)) > 0) {
        if (line[length - 1] == '\n')
            line[length - 1] = 0;
        if (match(pattern, line) == inverted)
            continue;
        printf("%s%s%s\n", name, *name ? ": " : "", line);
        found++;
    }
    return found;
}

int main(int argc, char **argv)
{
    int first = 1, found = 0;
    bool inverted = argc > 1 && strcmp(argv[1], "-v") == 0;

    first += inverted;
    if (first >= argc) {
        complain("usage: grep [-v] PATTERN [FILE ...]\n");
        return 2;
    }
    const char *pattern = argv[first++];
    if (first == argc)
        found = search(pattern, inverted, 0, "");
    for (int i = first; i < argc; i++) {
        int file = open_or_complain("grep", argv[i], OPEN_READ);
        if (file < 0)
            continue;
        found += search(pattern, inverted, file, argc - first > 1 ? argv[i] : "");
        close(file);
    }
    return found == 0;
}
