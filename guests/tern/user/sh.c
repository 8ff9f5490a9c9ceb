/*
 * The shell. It runs the commands of its argument first (the kernel's run= option), then those that
 * are typed. A command is a program's name and its arguments; ';' separates commands, '&' at the end
 * of one puts it in the background, '#' begins a comment, quotes keep blanks together, and $? is the
 * status of the last command.
 */
#include "user.h"

#define LINE_SIZE 1024 /* the console's lines are shorter, the kernel's run= is not */
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
        /* Here, not in the parent: then it is done before the program runs, whoever runs first. */
        setgroup(0, 0);
        if (!background)
            foreground(getpid());
        int error = exec(words[0], words);
        printf("%s: %s\n", words[0], error_text(error));
        exit(127);
    }
    if (background) {
        printf("[%d] started\n", pid);
        return;
    }
    wait(pid, &status, 0);
    foreground(getpid());
    last_status = status & STATUS_FAULT ? 128 + (status & 0x7f) : status & STATUS_KILLED ? 255 : status;
    if (status & STATUS_KILLED)
        printf("killed\n");
}

/* ---- commands of its own ---- */

static const char *const help[] = {
    "count [TIMES [MS]]     print 1, 2, 3 ... every MS milliseconds",
    "echo WORD ...          print the words; $? is the status of the last command",
    "exit [STATUS]          leave the shell",
    "fault KIND ...         do something forbidden; without KIND, list them",
    "help                   print this",
    "kill PID ...           end processes",
    "mem                    physical memory and who has it",
    "poweroff [STATUS]      end the machine",
    "ps                     processes",
    "sleep MS               do nothing",
    "spin MS, spin -n N     keep the processor busy, for a time or for N iterations",
    "sum [ROUNDS]           a checksum that takes processor and memory",
    "uptime                 time since boot",
    "wait                   wait for all background jobs",
    "COMMAND &              run it in the background",
    "COMMAND; COMMAND       one after the other",
};

static void do_help(char **words)
{
    (void)words;
    for (size_t i = 0; i < sizeof help / sizeof *help; i++)
        printf("%s\n", help[i]);
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

struct command {
    char *words[MAX_WORDS + 1]; /* they end with NULL */
    int count;
    char end;                   /* what ended it: ';', '&', or 0 for the end of the line */
    char text[2 * LINE_SIZE];   /* the words; no line expands to twice its size */
};

/* Copy one word to *to, without its quotes. Returns what follows it. */
static const char *copy_word(const char *at, char **to)
{
    char quote = 0;

    for (; *at && *at != '\n' && (quote || !strchr(" \t;&", *at)); at++) {
        if (*at == quote)
            quote = 0;
        else if (!quote && (*at == '"' || *at == '\''))
            quote = *at;
        else if (at[0] == '$' && at[1] == '?' && quote != '\'')
            *to += snprintf(*to, 4, "%d", last_status), at++;
        else
            *(*to)++ = *at;
    }
    *(*to)++ = 0;
    return at;
}

/* Take the first command off a line. Returns what is left of the line. */
static const char *parse(const char *at, struct command *c)
{
    char *to = c->text;

    for (c->count = 0; c->count < MAX_WORDS; c->count++) {
        while (*at == ' ' || *at == '\t')
            at++;
        if (!*at || strchr("\n;&#", *at))
            break;
        c->words[c->count] = to;
        at = copy_word(at, &to);
    }
    c->words[c->count] = NULL;
    c->end = *at == ';' || *at == '&' ? *at : 0;
    return at + (c->end != 0);
}

static void run_line(const char *line)
{
    static struct command command;

    do {
        line = parse(line, &command);
        if (command.count == MAX_WORDS)
            printf("sh: too many words\n");
        else if (command.count > 0)
            run(command.words, command.end == '&');
    } while (command.end);
}

int main(int argc, char **argv)
{
    static char line[LINE_SIZE];
    int length;

    if (argc > 1) {
        printf(PROMPT);
        write(1, argv[1], strlen(argv[1]));
        printf("\n");
        run_line(argv[1]);
    }
    for (;;) {
        reap();
        printf(PROMPT);
        if ((length = read(0, line, sizeof line - 1)) <= 0)
            return last_status;
        line[length] = 0;
        run_line(line);
    }
}
