/* The 8042 with a keyboard and a mouse (IBM PS/2 Technical Reference). */
#include "probes.h"

enum { DATA = 0x60, STATUS = 0x64 };

/* Status, and everything that is to be read, each with the status before it. */
static void drain(void)
{
    for (int i = 0; i < 24; i++) {
        uint8_t status = in8(STATUS);
        b(status);
        if (!(status & 1))
            break;
        b(in8(DATA));
    }
}

static void command(const char *name, uint8_t code)
{
    begin(name);
    b(code);
    out8(STATUS, code);
    drain();
    end();
}

static void controller(void)
{
    command("self-test", 0xaa);
    command("keyboard interface", 0xab);
    command("mouse interface", 0xa9);
    for (int code = 0x20; code < 0x40; code++)
        command("read memory", code);
    for (int mode = 0; mode < 0x80; mode += 0x11) {
        out8(STATUS, 0x60);
        out8(DATA, mode);
        command("mode", 0x20);
    }
    out8(STATUS, 0x60);
    out8(DATA, 0x03);
    for (int code = 0xa7; code <= 0xae; code++) {
        if (code >= 0xa9 && code <= 0xac)
            continue;
        command("disable or enable", code);
        command("and the mode", 0x20);
    }
    out8(STATUS, 0x60);
    out8(DATA, 0x03);
    command("input port", 0xc0);
    command("output port", 0xd0);
    out8(STATUS, 0xd1);
    out8(DATA, 0xdf);
    command("output port after writing it", 0xd0);
    command("A20 off and on", 0xdf);
    static const uint8_t unknown[] = { 0x00, 0x10, 0x5f, 0x80, 0xa0, 0xa4, 0xb0, 0xc1, 0xc8, 0xd5, 0xe0, 0xef, 0xff };
    for (uint32_t i = 0; i < sizeof unknown; i++)
        command("seldom used", unknown[i]);
    begin("port 92");
    b(in8(0x92));
    out8(0x92, 0x02);
    b(in8(0x92));
    end();
}

static void send(const char *name, uint8_t byte, int argument)
{
    begin(name);
    b(byte);
    out8(DATA, byte);
    drain();
    if (argument >= 0) {
        b(argument);
        out8(DATA, argument);
        drain();
    }
    end();
}

static void keyboard(void)
{
    for (int code = 0xed; code <= 0xff; code++) {
        int argument = code == 0xed ? 0x07 : code == 0xf0 ? 0x00 : code == 0xf3 ? 0x20 : -1;
        send("keyboard", code, argument);
    }
    for (int set = 1; set <= 4; set++) {
        send("scancode set", 0xf0, set);
        send("which", 0xf0, 0);
    }
    send("back to", 0xf0, 2);
    send("no command", 0x05, -1);
    send("keyboard reset", 0xff, -1);
}

static void mouse_send(uint8_t byte, int argument)
{
    begin("mouse");
    b(byte);
    out8(STATUS, 0xd4);
    out8(DATA, byte);
    drain();
    if (argument >= 0) {
        b(argument);
        out8(STATUS, 0xd4);
        out8(DATA, argument);
        drain();
    }
    end();
}

static void mouse(void)
{
    static const uint8_t rates[] = { 200, 100, 80, 200, 200, 80 };

    out8(STATUS, 0xa8);
    for (int code = 0xe6; code <= 0xff; code++)
        mouse_send(code, code == 0xe8 ? 2 : code == 0xf3 ? 40 : -1);
    mouse_send(0xe9, -1);
    mouse_send(0xec, -1); /* out of wrap mode, which 0xee began */
    for (uint32_t i = 0; i < sizeof rates; i++) {
        mouse_send(0xf3, rates[i]);
        mouse_send(0xf2, -1); /* the type changes after 200, 100, 80 and 200, 200, 80 */
    }
    mouse_send(0xec, -1);
    mouse_send(0xee, -1);
    mouse_send(0x55, -1);
    mouse_send(0xec, -1);
    mouse_send(0xff, -1);
}

static void buffers(void)
{
    pics(0x1002);
    out8(STATUS, 0xd2);
    out8(DATA, 0x77);
    begin("written for the keyboard, for the mouse");
    drain();
    out8(STATUS, 0xd3);
    out8(DATA, 0x88);
    drain();
    window();
    b(taken[1]);
    b(taken[12]);
    end();
    out8(DATA, 0xee); /* echo */
    window();
    begin("echo: interrupts, answer");
    b(taken[1]);
    drain();
    end();
    for (int translate = 0; translate < 2; translate++) {
        out8(STATUS, 0x60);
        out8(DATA, translate ? 0x41 : 0x01);
        send(translate ? "identification, translated" : "identification", 0xf2, -1);
    }
    out8(STATUS, 0x60);
    out8(DATA, 0x61);
    pics(0);
}

void probe_i8042(void)
{
    begin("as found");
    drain();
    end();
    out8(STATUS, 0x60);
    out8(DATA, 0x03);
    controller();
    keyboard();
    mouse();
    buffers();
}
