/* The 16550A (National PC16550D data sheet), mostly in loopback: it talks to itself. */
#include "probes.h"

enum { RBR = 0x3f8, THR = RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR, DLL = RBR, DLM = IER, FCR = IIR };

static void registers(const char *name)
{
    begin(name);
    for (int i = IER; i <= SCR; i++)
        b(in8(i));
    end();
}

static void reset(uint8_t mcr)
{
    out8(LCR, 0x83);
    out8(DLL, 1);
    out8(DLM, 0);
    out8(LCR, 3);
    out8(IER, 0);
    out8(FCR, 0x07);
    out8(FCR, 0);
    out8(MCR, mcr);
    in8(LSR);
    in8(RBR);
    in8(MSR);
    in8(IIR);
}

static void patterns(void)
{
    static const uint8_t values[] = { 0x00, 0xff, 0x5a, 0xa5, 0x0f };
    static const struct { const char *name; uint16_t port; } which[] = {
        { "scratch", SCR }, { "interrupt enable", IER }, { "line control", LCR }, { "line status", LSR },
        { "modem status", MSR }, { "modem control", MCR },
    };

    for (uint32_t i = 0; i < sizeof which / sizeof which[0]; i++) {
        begin(which[i].name);
        for (uint32_t j = 0; j < sizeof values; j++) {
            out8(which[i].port, values[j]);
            b(in8(which[i].port));
        }
        reset(0x0b);
        end();
    }
    out8(LCR, 0x80);
    begin("divisor");
    for (uint32_t j = 0; j < sizeof values; j++) {
        out8(DLL, values[j]);
        out8(DLM, ~values[j]);
        b(in8(DLL));
        b(in8(DLM));
    }
    end();
    reset(0x0b);
}

static void modem(void)
{
    begin("modem status in loopback, twice for each modem control");
    for (int i = 0; i < 16; i++) {
        out8(MCR, 0x10 | i);
        b(in8(MSR));
        b(in8(MSR));
    }
    end();
    out8(IER, 8);
    begin("modem interrupt");
    for (int i = 0; i < 4; i++) {
        out8(MCR, 0x10 | (i & 1) * 15);
        b(in8(IIR));
        b(in8(MSR));
        b(in8(IIR));
    }
    end();
    reset(0x0b);
}

static void identification(void)
{
    static const uint8_t controls[] = { 0x00, 0x01, 0x07, 0x41, 0x81, 0xc1, 0x0f, 0x06, 0x39, 0xc0, 0xff };

    begin("identification for each FIFO control");
    for (uint32_t i = 0; i < sizeof controls; i++) {
        out8(FCR, controls[i]);
        b(in8(IIR));
    }
    end();
    reset(0x0b);
    begin("transmitter's interrupt: enable, identify, again, disable, enable, write, identify");
    out8(IER, 2);
    b(in8(IIR));
    b(in8(IIR));
    out8(IER, 0);
    b(in8(IIR));
    out8(IER, 2);
    b(in8(IIR));
    out8(MCR, 0x1b);
    out8(THR, 'x');
    b(in8(IIR));
    b(in8(IIR));
    end();
    reset(0x1b);
}

static void loopback(void)
{
    begin("one by one: line status, identification, byte, line status");
    out8(IER, 1);
    for (int i = 0; i < 3; i++) {
        out8(THR, 0x40 + i);
        b(in8(LSR));
        b(in8(IIR));
        b(in8(RBR));
        b(in8(LSR));
        b(in8(IIR));
    }
    end();
    begin("overrun without FIFO");
    out8(IER, 7);
    out8(THR, 0x11);
    out8(THR, 0x22);
    b(in8(IIR));
    b(in8(LSR));
    b(in8(LSR));
    b(in8(IIR));
    b(in8(RBR));
    b(in8(IIR));
    b(in8(LSR));
    end();
    reset(0x1b);
    for (int level = 0; level < 4; level++) {
        out8(FCR, level << 6 | 7);
        out8(IER, 1);
        begin("identification as the FIFO fills, for trigger level");
        b(level);
        for (int i = 0; i < 18; i++) {
            out8(THR, i);
            b(in8(IIR) & 0xf5); /* the timeout may come any time: bit 3 and 1 say so */
        }
        b(in8(LSR));
        end();
        begin("and as it drains");
        for (int i = 0; i < 18; i++) {
            b(in8(RBR));
            b(in8(LSR));
        }
        end();
        reset(0x1b);
    }
    begin("break");
    out8(LCR, 0x43);
    b(in8(LSR));
    out8(LCR, 3);
    b(in8(LSR));
    end();
    for (int frame = 0; frame < 64; frame += 5) {
        out8(LCR, frame);
        out8(THR, 0xa5);
        begin("a byte in frame");
        b(frame);
        b(in8(RBR));
        b(in8(LSR));
        end();
    }
    reset(0x1b);
}

static void interrupts(void)
{
    pics(0x0010);
    out8(FCR, 0xc7);
    out8(IER, 1);
    out8(THR, 1);
    out8(THR, 2);
    bool good = wait_for(4, 1); /* two bytes do not reach the trigger level of 14: it is the timeout */
    begin("timeout: came, identification, bytes, identification");
    b(good);
    b(in8(IIR));
    b(in8(RBR));
    b(in8(IIR));
    b(in8(RBR));
    b(in8(IIR));
    end();
    for (int mcr = 0x10; mcr < 0x20; mcr += 4) {
        reset(mcr);
        pics(0x0010);
        out8(IER, 2);
        window();
        begin("the line with modem control");
        b(mcr);
        b(taken[4]);
        end();
    }
    reset(0x0b);
    pics(0);
}

void probe_uart(void)
{
    registers("as found");
    reset(0x0b);
    registers("set up");
    patterns();
    modem();
    identification();
    loopback();
    interrupts();
}
