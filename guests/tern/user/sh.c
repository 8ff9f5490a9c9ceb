/*
 * The shell: sh, sh COMMANDS, sh -c COMMANDS.
 *
 * It runs the commands of its argument first (the kernel's run= option), then those that are typed, or
 * come from whatever file its input is; with -c it runs the argument and no more, in silence. A command
 * is a program's name and its arguments; < > >> name files for its input and output, '|' passes the
 * output of one to the next, ';' separates commands, '&' at the end of one puts it in the background,
 * '#' begins a comment, quotes keep blanks together, and $? is the status of the last command.
 */
#include "user.h"

#define LINE_SIZE 1024 /* the console's lines are shorter, the kernel's run= is not */
#define MAX_WORDS 32
#define MAX_STAGES 8
#define PROMPT "tern$ "

static int last_status;
static bool interactive; /* somebody types: prompt, and keep jobs in groups of their own */

struct stage { /* one program of a pipeline */
    char **words; /* they end with NULL */
    char *input, *output; /* names of files, or NULL */
    bool append;
};

struct pipeline {
    struct stage stages[MAX_STAGES];
    int count;
    char end;                   /* what ended it: ';', '&', or 0 for the end of the line */
    char *words[MAX_WORDS + MAX_STAGES]; /* of all stages; each one's end with NULL */
    char text[2 * LINE_SIZE];   /* the words; no line expands to twice its size */
};

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

/* ---- running ---- */

static void redirect(const char *path, int flags, int to)
{
    int file = open_or_complain("sh", path, flags);

    if (file < 0)
        exit(1);
    dup(file, to);
    close(file);
}

/* In the child. input and output are ends of pipes, or 0 and 1. */
static void become(const struct stage *s, int input, int output)
{
    if (input != 0) {
        dup(input, 0);
        close(input);
    }
    if (output != 1) {
        dup(output, 1);
        close(output);
    }
    if (s->input)
        redirect(s->input, OPEN_READ, 0);
    if (s->output)
        redirect(s->output, OPEN_WRITE | OPEN_CREATE | (s->append ? OPEN_APPEND : OPEN_TRUNCATE), 1);
    int error = exec(s->words[0], s->words);
    complain("%s: %s\n", s->words[0], error_text(error));
    exit(127);
}

/* Start one stage; leader is the pid of the first one, or 0. Returns its pid, or an error. */
static int start(const struct stage *s, int leader, bool background, int input, int output, int unused)
{
    int pid = fork();

    if (pid != 0)
        return pid;
    if (interactive) {
        /* Here, not in the parent: then it is done before the program runs, whoever runs first. */
        setgroup(0, leader);
        if (!background)
            foreground(leader ? leader : getpid());
    }
    if (unused > 1)
        close(unused); /* the reading end of our own output */
    become(s, input, output);
    return 0;
}

/* Start all stages, connected. Returns how many; their pids are left in pids. */
static int start_all(const struct pipeline *p, int pids[MAX_STAGES])
{
    int input = 0, i;

    for (i = 0; i < p->count; i++) {
        int ends[2] = {0, 1};
        int error = i + 1 < p->count ? pipe(ends) : 0;
        if (!error)
            error = pids[i] = start(&p->stages[i], i ? pids[0] : 0, p->end == '&', input, ends[1], ends[0]);
        if (input > 2)
            close(input);
        if (ends[1] > 2)
            close(ends[1]);
        input = ends[0];
        if (error < 0) {
            printf("sh: fork: %s\n", error_text(error));
            break;
        }
    }
    if (input > 2)
        close(input);
    return i;
}

static int shell_status(int status)
{
    return status & STATUS_FAULT ? 128 + (status & 0x7f) : status & STATUS_KILLED ? 255 : status;
}

static void run_programs(const struct pipeline *p)
{
    int pids[MAX_STAGES], status = 0, started = start_all(p, pids);

    if (p->end == '&') {
        for (int i = 0; i < started; i++)
            printf("[%d] started\n", pids[i]);
        return;
    }
    for (int i = 0; i < started; i++)
        wait(pids[i], &status, 0);
    if (interactive)
        foreground(getpid());
    if (started > 0)
        last_status = shell_status(status);
    if (status & STATUS_KILLED)
        printf("killed\n");
}

/* ---- commands of its own ---- */

static void do_help(char **words)
{
    int file = open_or_complain("help", "/etc/help", OPEN_READ);

    print_file(file, 0xffffffff);
    close(file);
}

/* Wait for all background jobs. */
static void do_wait(char **words)
{
    int pid, status;

    while ((pid = wait(-1, &status, 0)) > 0)
        report(pid, status);
}

static void do_exit(char **words)
{
    exit(number_or(words[1], last_status));
}

static void do_cd(char **words)
{
    int error = chdir(words[1] ? words[1] : "/");

    if (error < 0)
        printf("cd: %s: %s\n", words[1], error_text(error));
    last_status = error < 0;
}

static const struct {
    const char *name;
    void (*run)(char **words);
} builtins[] = {{"help", do_help}, {"wait", do_wait}, {"exit", do_exit}, {"cd", do_cd}};

static void run(const struct pipeline *p)
{
    for (size_t i = 0; p->count == 1 && i < sizeof builtins / sizeof *builtins; i++) {
        if (strcmp(p->stages[0].words[0], builtins[i].name) == 0) {
            builtins[i].run(p->stages[0].words);
            return;
        }
    }
    run_programs(p);
}

/* ---- the line ---- */

/* Copy one word to *to, without its quotes. Returns what follows it. */
static const char *copy_word(const char *at, char **to)
{
    char quote = 0;

    for (; *at && *at != '\n' && (quote || !strchr(" \t;&|<>", *at)); at++) {
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

static const char *skip_blanks(const char *at)
{
    while (*at == ' ' || *at == '\t')
        at++;
    return at;
}

/* Take one stage off a line: words and redirections. *error says what is wrong with it, or NULL. */
static const char *parse_stage(const char *at, struct stage *s, char ***words, char **text, const char **error)
{
    int count = 0;

    *s = (struct stage){.words = *words};
    for (at = skip_blanks(at); *at && !strchr("\n;&#|", *at); at = skip_blanks(at)) {
        char **to = NULL;
        if (*at == '<') {
            to = &s->input;
            at = skip_blanks(at + 1);
        } else if (*at == '>') {
            to = &s->output;
            s->append = at[1] == '>';
            at = skip_blanks(at + 1 + s->append);
        } else if (++count > MAX_WORDS) {
            *error = "too many words";
            return at;
        }
        if (to && (!*at || strchr("\n;&#|<>", *at))) {
            *error = "a file's name is missing";
            return at;
        }
        if (to)
            *to = *text;
        else
            *(*words)++ = *text;
        at = copy_word(at, text);
    }
    *(*words)++ = NULL;
    return at;
}

/* Take the first pipeline off a line. Returns what is left of the line; NULL if it makes no sense. */
static const char *parse(const char *at, struct pipeline *p)
{
    char *text = p->text, **words = p->words;
    const char *error = NULL;

    for (p->count = 0;;) {
        struct stage *s = &p->stages[p->count];
        at = parse_stage(at, s, &words, &text, &error);
        bool empty = !error && !s->words[0], more = *at == '|';
        if (empty && (more || p->count > 0 || s->input || s->output))
            error = "a command is missing";
        else if (!empty && ++p->count == MAX_STAGES && more)
            error = "too many commands in a pipeline";
        if (error) {
            printf("sh: %s\n", error);
            return NULL;
        }
        if (!more)
            break;
        at++;
    }
    p->end = *at == ';' || *at == '&' ? *at : 0;
    return at + (p->end != 0);
}

static void run_line(const char *line)
{
    static struct pipeline pipeline;

    do {
        if (!(line = parse(line, &pipeline)))
            return;
        if (pipeline.count > 0)
            run(&pipeline);
    } while (pipeline.end);
}

/* A line from the console comes at once. Of other files no more is read than the line: what follows
 * may be for the commands in it. */
static int next_line(char *line, int size)
{
    int n = 0;

    if (interactive) {
        printf(PROMPT);
        n = read(0, line, size - 1);
    } else {
        while (n + 1 < size && read(0, line + n, 1) == 1 && line[n++] != '\n')
            ;
    }
    if (n >= 0)
        line[n] = 0;
    return n;
}

int main(int argc, char **argv)
{
    static char line[LINE_SIZE];
    struct file_status input;

    if (argc > 2 && strcmp(argv[1], "-c") == 0) {
        run_line(argv[2]);
        return last_status;
    }
    interactive = fstat(0, &input) == 0 && input.type == TYPE_DEVICE;
    if (argc > 1) {
        printf(PROMPT);
        write(1, argv[1], strlen(argv[1]));
        printf("\n");
        run_line(argv[1]);
    }
    for (;;) {
        reap();
        if (next_line(line, sizeof line) <= 0)
            return last_status;
        run_line(line);
    }
}
