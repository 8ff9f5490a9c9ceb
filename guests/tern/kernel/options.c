/* Reading order 4. The kernel's command line: NAME or NAME=VALUE, VALUE possibly in double quotes. */
#include "kernel.h"

struct options options = {.init = "sh"};

/* value is NULL for a word without '='. Says whether the word is one of ours. */
static bool set_option(const char *name, const char *value)
{
    if (strcmp(name, "quiet") == 0)
        options.quiet = true;
    else if (strcmp(name, "pse") == 0)
        options.pse = true;
    else if (strcmp(name, "fxsr") == 0)
        options.fxsr = true;
    else if (strcmp(name, "crash") == 0)
        options.crash = true;
    else if (strcmp(name, "init") == 0 && value)
        strlcpy(options.init, value, sizeof options.init);
    else if (strcmp(name, "run") == 0 && value)
        strlcpy(options.run, value, sizeof options.run);
    else
        return false;
    return true;
}

/*
 * Take the next word from *at into word, without its quotes; *value is what follows its '=', or
 * NULL. Says whether there was one.
 */
static bool next_word(const char **at, char *word, size_t size, char **value)
{
    bool quoted = false;
    size_t n = 0;

    while (**at == ' ')
        ++*at;
    if (!**at)
        return false;
    *value = NULL;
    for (; **at && (quoted || **at != ' '); ++*at) {
        char c = **at;
        if (c == '"') {
            quoted = !quoted;
        } else if (c == '=' && !quoted && !*value && n + 1 < size) {
            word[n++] = 0;
            *value = word + n;
        } else if (n + 1 < size) {
            word[n++] = c;
        }
    }
    word[n] = 0;
    return true;
}

void options_init(const char *command_line)
{
    static char word[sizeof bootinfo.command_line];
    const char *at = command_line;
    char *value;
    bool first = true;

    while (next_word(&at, word, sizeof word, &value)) {
        bool known = set_option(word, value);
        /* Most loaders put the image's name before the options. */
        if (first && !known) {
            while (*at == ' ')
                at++;
            memmove(bootinfo.command_line, at, strlen(at) + 1);
            at = bootinfo.command_line;
        }
        first = false;
    }
}
