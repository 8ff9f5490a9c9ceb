/* System calls and the small library of the programs. */
#include "user.h"

int syscall(int number, uint32_t a, uint32_t b, uint32_t c)
{
    int result;

    __asm__ volatile("int %1"
                     : "=a"(result)
                     : "i"(SYSCALL_VECTOR), "a"(number), "b"(a), "c"(b), "d"(c)
                     : "memory");
    return result;
}

/* A program whose output nobody reads any more has nothing left to do. */
static void print(int file, const char *format, va_list arguments)
{
    char text[512];
    int length = vsnprintf(text, sizeof text, format, arguments);

    if (write(file, text, length) == -E_PIPE)
        exit(1);
}

void printf(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    print(1, format, arguments);
    va_end(arguments);
}

void complain(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    print(2, format, arguments);
    va_end(arguments);
}

/* A program that cannot print has nothing left to do. */
int print_file(int file, uint32_t limit)
{
    static char buffer[4096];
    int n = 1;

    for (; limit > 0 && n > 0; limit -= n) {
        n = read(file, buffer, limit < sizeof buffer ? limit : sizeof buffer);
        if (n > 0 && write(1, buffer, n) < n)
            exit(1);
    }
    return n < 0 ? n : 0;
}

int fail(const char *program, const char *what, int error)
{
    complain("%s: %s: %s\n", program, what, error_text(error));
    return 1;
}

int usage(const char *text)
{
    complain("usage: %s\n", text);
    return 1;
}

int read_line(struct reader *r, char *line, int size)
{
    int n = 0;

    while (n + 1 < size) {
        if (r->next == r->length) {
            r->next = 0;
            if ((r->length = read(r->file, r->buffer, sizeof r->buffer)) <= 0) {
                if (r->length < 0)
                    return r->length;
                break;
            }
        }
        if ((line[n++] = r->buffer[r->next++]) == '\n')
            break;
    }
    line[n] = 0;
    return n;
}

int open_or_complain(const char *program, const char *path, int flags)
{
    int file = open(path, flags);

    if (file < 0)
        fail(program, path, file);
    return file;
}

int each_argument(int argc, char **argv, int (*act)(const char *argument))
{
    int result = 0;

    for (int i = 1; i < argc; i++) {
        int error = act(argv[i]);
        if (error < 0)
            result = fail(argv[0], argv[i], error);
    }
    return result;
}

const char *error_text(int error)
{
    static const char *const texts[] = {
        [E_INVALID] = "invalid argument",
        [E_FAULT] = "bad address",
        [E_MEMORY] = "out of memory",
        [E_PROCESS] = "no such process",
        [E_NOTFOUND] = "not found",
        [E_FORMAT] = "not a program",
        [E_TOOBIG] = "arguments too long",
        [E_BADFILE] = "bad file descriptor",
        [E_BACKGROUND] = "not in the foreground",
        [E_INTERRUPTED] = "interrupted",
        [E_LIMIT] = "too many processes",
        [E_FILES] = "too many open files",
        [E_PIPE] = "nobody reads",
        [E_EXISTS] = "exists already",
        [E_NOTDIRECTORY] = "not a directory",
        [E_DIRECTORY] = "is a directory",
        [E_NOTEMPTY] = "not empty",
        [E_READONLY] = "read-only",
        [E_NOSPACE] = "no space",
        [E_IO] = "disk error",
    };

    if (error < 0)
        error = -error;
    return error > 0 && error < (int)(sizeof texts / sizeof *texts) ? texts[error] : "unknown error";
}

bool number(const char *text, uint32_t *value)
{
    *value = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return false;
        *value = *value * 10 + *text - '0';
    }
    return true;
}

uint32_t number_or(const char *text, uint32_t otherwise)
{
    uint32_t value;

    return text && number(text, &value) ? value : otherwise;
}

/* Act on each file that is named, or on the input if none is; see each_argument(). */
int each_file(int argc, char **argv, int (*act)(int file, const char *name))
{
    int result = 0;

    if (argc < 2)
        return act(0, "") < 0;
    for (int i = 1; i < argc; i++) {
        int file = open_or_complain(argv[0], argv[i], OPEN_READ);
        int error = file < 0 ? 0 : act(file, argv[i]);
        if (error < 0)
            fail(argv[0], argv[i], error);
        if (file < 0 || error < 0)
            result = 1;
        close(file);
    }
    return result;
}

void target_path(char path[PATH_SIZE], const char *from, const char *to)
{
    struct file_status s;
    bool into = stat(to, &s) == 0 && s.type == TYPE_DIRECTORY;

    snprintf(path, PATH_SIZE, into ? "%s/%s" : "%s", to, base_name(from));
}
