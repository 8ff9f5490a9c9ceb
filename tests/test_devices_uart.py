"""The 16550A: input that is never lost, and interrupts with an edge for everything that happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from port_script import FixedClock

from hypervisor.devices.uart import Uart

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCRATCH = range(8)


class Wired:
    def __init__(self, *, out2_gates: bool = False) -> None:
        self.clock = FixedClock()
        self.level = 0
        self.edges = 0
        self.sent = bytearray()
        self.uart = Uart(self.clock, self._line, lambda: None, self.sent.extend, out2_gates=out2_gates)
        self.uart.reset()

    def _line(self, level: int) -> None:
        self.edges += level > self.level
        self.level = level

    def __getitem__(self, register: int) -> int:
        return self.uart.read(register, 1)

    def __setitem__(self, register: int, value: int) -> None:
        self.uart.write(register, 1, value)

    def drain(self) -> bytes:
        data = bytearray()
        while self[LSR] & 1:
            data.append(self[DATA])
        return bytes(data)


@given(st.binary(max_size=200), st.sampled_from([0, 0x01, 0x41, 0x81, 0xC1]))
def test_no_input_is_lost_or_reordered_however_much_arrives_at_once(data, fifo):
    wired = Wired()
    wired[IIR] = fifo
    wired.uart.receive(data[:50])
    wired.uart.receive(data[50:])
    assert wired.drain() == data
    assert not wired[LSR] & 0x02, "no overrun"


@pytest.mark.parametrize("fifo", [0, 0x01, 0x41])
def test_a_handler_that_reads_one_filling_gets_an_edge_for_the_next(fifo):
    wired = Wired()
    wired[IIR] = fifo
    wired[IER] = 1
    wired.uart.receive(bytes(100))
    filling = 4 if fifo == 0x41 else 1
    for _ in range(100 // filling - 1):
        before = wired.edges
        for _ in range(filling):
            wired[DATA]
        assert wired.edges > before


def test_interrupts_come_in_the_order_of_their_priority():
    wired = Wired()
    wired[MCR] = 0x1B  # loopback
    wired.uart.set_modem_lines(0x00)
    wired[DATA] = 1
    wired[DATA] = 2  # overrun
    wired[IER] = 0x0F
    assert wired[IIR] == 0x06
    assert wired[LSR] & 0x03 == 0x03
    assert wired[IIR] == 0x04
    assert wired[DATA] == 2
    assert wired[IIR] == 0x02  # and reading that clears it
    assert wired[IIR] == 0x00
    wired[MCR] = 0x0B
    assert wired[MSR] == 0x0B
    assert wired[IIR] == 0x01
    assert wired.level == 0


def test_every_byte_written_gives_an_edge_while_the_transmit_interrupt_is_on():
    wired = Wired()
    wired[IER] = 2
    assert wired.edges == 1
    for value in b"abc":
        wired[DATA] = value
    assert wired.edges == 4
    assert wired.sent == b"abc"
    assert wired[LSR] == 0x60


def test_the_timeout_interrupts_for_a_fifo_that_is_not_full_enough():
    wired = Wired()
    wired[LCR] = 0x83
    wired[DATA], wired[IER] = 1, 0  # 115200 baud
    wired[LCR] = 0x03
    wired[IIR] = 0xC1
    wired[IER] = 1
    wired.uart.receive(b"xy")
    four_characters = 4 * (10 * 10**9 // 115_200)
    assert wired.uart.next_deadline() == four_characters
    wired.clock.now = four_characters - 1
    assert wired[IIR] == 0xC1
    wired.clock.now = four_characters
    assert wired[IIR] == 0xCC
    assert wired.level
    wired[DATA]
    assert wired[IIR] == 0xC1
    assert wired.uart.next_deadline() == 2 * four_characters


def test_loopback_keeps_the_outside_out_and_returns_the_modem_outputs():
    wired = Wired()
    wired[MCR] = 0x10
    wired.uart.receive(b"outside")
    wired[DATA] = ord("i")
    assert wired.sent == b""
    assert wired[DATA] == ord("i")
    for mcr, msr in ((0x11, 0x20), (0x12, 0x10), (0x14, 0x40), (0x18, 0x80)):
        wired[MCR] = mcr
        assert wired[MSR] == msr
    wired[MCR] = 0x0B
    assert wired.drain() == b"outside"


def test_modem_lines_report_their_changes_once():
    wired = Wired()
    assert wired[MSR] == 0xB0
    wired.uart.set_modem_lines(0xF0)
    assert wired[MSR] == 0xF0, "RI rising is no change"
    wired.uart.set_modem_lines(0x90)
    assert wired[MSR] == 0x96
    assert wired[MSR] == 0x90


def test_out2_gates_the_interrupt_only_where_it_is_wired_so():
    for gated in (False, True):
        wired = Wired(out2_gates=gated)
        wired[MCR] = 0x00
        wired[IER] = 2
        assert wired.level == (0 if gated else 1)
        wired[MCR] = 0x08
        assert wired.level == 1


def test_the_divisor_is_behind_dlab_and_the_scratch_register_is_not():
    wired = Wired()
    wired[LCR] = 0x83
    wired[DATA], wired[IER] = 0x34, 0x12
    wired[SCRATCH] = 0x5A
    assert (wired[DATA], wired[IER], wired[SCRATCH]) == (0x34, 0x12, 0x5A)
    wired[LCR] = 0x03
    assert wired[IER] == 0
    assert wired.sent == b""
