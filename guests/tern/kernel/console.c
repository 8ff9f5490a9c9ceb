/*
 * Reading order 12. The console: lines in, lines out, and who may use it.
 *
 * Input is edited and echoed by the process that reads it, when it reads it, not when it arrives.
 * So a session typed ahead (or piped in) gives the same transcript as one typed slowly.
 *
 * One process group is in the foreground (the shell decides). What others write is set apart line
 * by line: the unfinished line on the screen is wiped, "[PID] text" appears, and the unfinished line
 * again below it. What remains when all such lines are taken out does not depend on timing.
 */
#include "kernel.h"

#define LINE_SIZE 256
#define LINE_ROOM 1024 /* enough for a line, a wiped line, and carriage returns */

#define CTRL(letter) ((letter) - '@')
#define DELETE 0x7f

static volatile int foreground = 1;

/* The unfinished line on the screen. */
static char shown[LINE_SIZE];
static uint32_t shown_length;

/* Input as it arrived: written by the UART's interrupt at in_head, taken by the reader at in_tail. */
static char in[4096];
static volatile uint32_t in_head, in_tail;

/* The edited line of which [line_taken, line_length) has not been read yet. */
static char line[LINE_SIZE];
static uint32_t line_length, line_taken;

/* ---- output ---- */

/* Must hold, here and below: there is room in the UART's ring. */
static void put(char c)
{
    if (c == '\n') {
        uart_put('\r');
        shown_length = 0;
    } else if (shown_length < LINE_SIZE) {
        shown[shown_length++] = c;
    }
    uart_put(c);
}

static void put_text(const char *text, uint32_t length)
{
    while (length-- > 0)
        put(*text++);
}

/* Take back the last character of the unfinished line. */
static void erase(void)
{
    if (shown_length > 0)
        shown_length--;
    uart_put('\b');
    uart_put(' ');
    uart_put('\b');
}

/* A whole line of its own, above the unfinished one. */
static void put_line_apart(const char *prefix, const char *text, uint32_t length)
{
    static char saved[LINE_SIZE];
    uint32_t saved_length = shown_length;

    if (saved_length > 0) {
        memcpy(saved, shown, saved_length);
        for (const char *wipe = "\r\033[K"; *wipe; wipe++)
            uart_put(*wipe);
        shown_length = 0;
    }
    put_text(prefix, strlen(prefix));
    put_text(text, length);
    put('\n');
    put_text(saved, saved_length);
}

static void print_line(const char *prefix, const char *format, va_list arguments)
{
    char text[LINE_SIZE];
    int length = vsnprintf(text, sizeof text, format, arguments);

    interrupts_off(); /* so that uart_wait_room() does not sleep: anybody may call us, at any time */
    uart_wait_room(LINE_ROOM);
    put_line_apart(prefix, text, length);
    uart_start();
    interrupts_on();
}

/* A line from the kernel itself. */
void kprintf(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    print_line("tern: ", format, arguments);
    va_end(arguments);
}

static const char *job_prefix(char *buffer, size_t size)
{
    snprintf(buffer, size, "[%d] ", current->pid);
    return buffer;
}

/* A line from the kernel about what the current process has done. */
void console_report(const char *format, ...)
{
    char prefix[16];
    va_list arguments;

    va_start(arguments, format);
    bool apart = current->group != foreground;
    print_line(apart ? job_prefix(prefix, sizeof prefix) : "tern: ", format, arguments);
    va_end(arguments);
}

static uint32_t line_end(const char *text, uint32_t length)
{
    uint32_t n = 0;

    while (n < length && n < LINE_SIZE && text[n] != '\n')
        n++;
    return n;
}

/* Must hold: space_prepare() has approved of text. Lines of several writers never mix. */
int console_write(const char *text, uint32_t length)
{
    for (uint32_t done = 0; done < length;) {
        uart_wait_room(LINE_ROOM);
        if (current->killed)
            return -E_INTERRUPTED;
        uint32_t n = line_end(text + done, length - done);
        bool newline = done + n < length && text[done + n] == '\n';
        if (current->group == foreground) {
            put_text(text + done, n + newline);
        } else {
            char prefix[16];
            put_line_apart(job_prefix(prefix, sizeof prefix), text + done, n);
        }
        done += n + newline;
        uart_start();
    }
    return length;
}

int console_set_foreground(int group)
{
    foreground = group;
    return 0;
}

/* ---- input ---- */

bool console_has_room(void)
{
    return in_head - in_tail < sizeof in;
}

/* From the UART's interrupt. Ctrl-C is for the job in the foreground, if that is not the shell. */
void console_input(char c)
{
    if (c == CTRL('C') && foreground != 1) {
        process_kill_group(foreground, STATUS_KILLED);
        return;
    }
    in[in_head++ % sizeof in] = c;
    wakeup(in);
}

/* The next character, or -1 if the process is to die. */
static int take(void)
{
    if (in_head == in_tail) {
        interrupts_off(); /* or else it might arrive between the test and the sleep */
        while (in_head == in_tail && !current->killed)
            sleep_on(in);
        interrupts_on();
        if (current->killed)
            return -1;
    }
    int c = in[in_tail++ % sizeof in];
    if (in_head - in_tail < sizeof in / 2)
        uart_resume_input();
    return c;
}

/* Apply one character to the line; says whether that finishes it. */
static bool edit(int c)
{
    switch (c) {
    case '\r':
    case '\n':
        put('\n');
        line[line_length++] = '\n';
        return true;
    case CTRL('C'):
        put_text("^C\n", 3);
        line[0] = '\n';
        line_length = 1;
        return true;
    case CTRL('D'):
        return line_length == 0; /* an empty line without newline: end of file */
    case CTRL('H'):
    case DELETE:
        if (line_length > 0) {
            line_length--;
            erase();
        }
        return false;
    case CTRL('U'):
        for (; line_length > 0; line_length--)
            erase();
        return false;
    }
    if (c < ' ')
        return false;
    if (line_length < LINE_SIZE - 1) {
        line[line_length++] = c;
        put(c);
    } else {
        uart_put(CTRL('G'));
    }
    return false;
}

/* Read a line, or what is left of one. Must hold: space_prepare() has approved of buffer. */
int console_read(char *buffer, uint32_t size)
{
    if (current->group != foreground)
        return -E_BACKGROUND;
    if (line_taken == line_length) {
        bool done = false;
        line_taken = line_length = 0;
        while (!done) {
            int c = take();
            if (c < 0)
                return -E_INTERRUPTED;
            uart_wait_room(LINE_ROOM);
            done = edit((unsigned char)c);
            if (done || in_head == in_tail)
                uart_start(); /* not for each character, if there are many */
        }
    }
    uint32_t n = line_length - line_taken;
    if (n > size)
        n = size;
    memcpy(buffer, line + line_taken, n);
    line_taken += n;
    return n;
}
