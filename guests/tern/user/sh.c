/*
 * The shell. It runs the commands of its argument first (the kernel's run= option), then those that
 * are typed. A command is a program's name and its arguments; ';' separates commands, '&' at the end
 * of one puts it in the background, '#' begins a comment, quotes keep blanks together, and $? is the
 * status of the last command.
 */
#include "user.h"

#define LINE_SIZE 256
#define MAX_WORDS 32
#define PROMPT "tern$ "

static int last_status;

/* ---- jobs ---- */

static void report(int pid, int status)
{
    if (status & STATUS_KILLED)
        printf("[%d] killed\n", pid);
    else if (status & STATUS_FAULT)
        printf("[%d] fault %d\n", pid, status & 0xff);
    else if (status)
        printf("[%d] exit %d\n", pid, status);
    else
        printf("[%d] done\n", pid);
}

/* Tell about background jobs that have ended meanwhile. */
static void reap(void)
{
    int pid, status;

    while ((pid = wait(-1, &status, WAIT_NOHANG)) > 0)
        report(pid, status);
}

static void start(char **words, bool background)
{
    int pid = fork(), status;

    if (pid < 0) {
        printf("sh: fork: %s\n", error_text(pid));
        return;
    }
    if (pid == 0) {
        int error = exec(words[0], words);
        printf("%s: %s\n", words[0], error_text(error));
        exit(127);
    }
    setgroup(pid, pid); /* before the child runs: a fork does not give up the processor */
    if (background) {
        printf("[%d] started\n", pid);
        return;
    }
    foreground(pid);
    wait(pid, &status, 0);
    foreground(getpid());
    last_status = status & STATUS_FAULT ? 128 + (status & 0x7f) : status & STATUS_KILLED ? 255 : status;
    if (status & STATUS_KILLED)
        printf("killed\n");
}

/* ---- commands of its own ---- */

static void do_help(char **words)
{
    struct program_info program;

    (void)words;
    printf("commands of the shell: help wait exit\n");
    printf("programs:");
    for (int i = 0; program_info(i, &program) == 0; i++)
        printf(" %s", program.name);
    printf("\n");
    printf("COMMAND [ARGUMENT ...] [&]; '&' runs it in the background, ';' separates commands\n");
}

/* Wait for all background jobs. */
static void do_wait(char **words)
{
    int pid, status;

    (void)words;
    while ((pid = wait(-1, &status, 0)) > 0)
        report(pid, status);
}

static void do_exit(char **words)
{
    exit(number_or(words[1], last_status));
}

static const struct {
    const char *name;
    void (*run)(char **words);
} builtins[] = {{"help", do_help}, {"wait", do_wait}, {"exit", do_exit}};

static void run(char **words, bool background)
{
    for (size_t i = 0; i < sizeof builtins / sizeof *builtins; i++) {
        if (strcmp(words[0], builtins[i].name) == 0) {
            builtins[i].run(words);
            return;
        }
    }
    start(words, background);
}

/* ---- the line ---- */

/*
 * Take one command off *at: cut its words out in place. Returns how many there are; *end is what
 * ended it: ';', '&', or 0 at the end of the line.
 */
static int parse(char **at, char **words, char *end)
{
    char *from = *at;
    int count = 0;

    for (;;) {
        while (*from == ' ' || *from == '\t')
            from++;
        *end = *from;
        if (*from == '#' || *from == 0 || *from == '\n') {
            *end = 0;
            break;
        }
        if (*from == ';' || *from == '&') {
            from++;
            break;
        }
        char quote = 0, *to = from;
        if (count < MAX_WORDS)
            words[count++] = to;
        for (; *from && *from != '\n' && (quote || !strchr(" \t;&", *from)); from++) {
            if (quote ? *from == quote : *from == '"' || *from == '\'')
                quote = quote ? 0 : *from;
            else
                *to++ = *from;
        }
        char stop = *from;
        if (stop == ' ' || stop == '\t')
            from++;
        *to = 0;
        if (to == from && stop != 0) { /* the NUL has just overwritten it */
            *end = stop == '\n' ? 0 : stop;
            from++;
            break;
        }
    }
    *at = from;
    words[count] = NULL;
    return count;
}

static void run_line(char *line)
{
    static char status[8];
    char *words[MAX_WORDS + 1], end = ';';

    while (end) {
        int count = parse(&line, words, &end);
        for (int i = 0; i < count; i++) {
            if (strcmp(words[i], "$?") == 0) {
                snprintf(status, sizeof status, "%d", last_status);
                words[i] = status;
            }
        }
        if (count > 0)
            run(words, end == '&');
    }
}

int main(int argc, char **argv)
{
    char line[LINE_SIZE + 1];
    int length;

    if (argc > 1) {
        printf(PROMPT "%s\n", argv[1]);
        run_line(argv[1]);
    }
    for (;;) {
        reap();
        printf(PROMPT);
        if ((length = read(0, line, LINE_SIZE)) <= 0)
            return last_status;
        line[length] = 0;
        run_line(line);
    }
}
