"""The 16550A UART: COM1.

Source: National Semiconductor PC16550D data sheet. As in QEMU 7.2 (hw/char/serial.c):

* a transmitted byte is out at once, so the transmitter is never seen busy;
* OUT2 does not gate the interrupt, as it does on a PC's board (xv6, for one, counts on that);
  ``out2_gates`` makes it;
* an enabled receive interrupt is needed for the timeout interrupt too;
* the receive FIFO is filled no further than its trigger level, so a guest that drains it in its handler
  sees one interrupt for every filling.

What the outside sends waits in ``queue``, without a bound, and enters the receiver as room appears:
nothing that is typed is ever lost. The queue is part of the state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct

from hypervisor.devices.device import SECOND, U8, Bit, Clock, Device, Line, Rescheduled, Time

FIRST_PORT = 0x3F8
IRQ = 4
BASE_BAUD = 115_200
"""The rate at divisor 1: 1.8432 MHz / 16."""
FIFO_SIZE = 16
TRIGGER_LEVELS = (1, 4, 8, 14)
"""Bytes in the receive FIFO that raise the interrupt, by FCR bits 6 and 7."""

IER_RECEIVE, IER_TRANSMIT, IER_LINE, IER_MODEM = 1, 2, 4, 8
IIR_NONE, IIR_MODEM, IIR_TRANSMIT, IIR_RECEIVE, IIR_LINE, IIR_TIMEOUT = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C
IIR_FIFO = 0xC0
FCR_ENABLE, FCR_CLEAR_RECEIVER, FCR_CLEAR_TRANSMITTER = 1, 2, 4
FCR_STICKY = 0xC9
LCR_DLAB = 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 1, 2, 4, 8, 16
LSR_READY, LSR_OVERRUN, LSR_PARITY, LSR_FRAMING, LSR_BREAK = 1, 2, 4, 8, 16
LSR_HOLDING_EMPTY, LSR_EMPTY = 0x20, 0x40
LSR_ERRORS = LSR_OVERRUN | LSR_PARITY | LSR_FRAMING | LSR_BREAK
MSR_RING_ENDED = 0x04
MSR_DELTAS = 0x0F
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80

_BYTES = tuple(bytes([value]) for value in range(256))


class UartFields(Struct, forbid_unknown_fields=True):
    receiver: U8
    """RBR while the FIFO is off."""
    fifo: Annotated[bytes, Meta(max_length=FIFO_SIZE)]
    queue: bytes
    """Input that has not entered the receiver yet."""
    ier: Annotated[int, Meta(ge=0, le=0x0F)]
    iir: U8
    fcr: U8
    lcr: U8
    mcr: Annotated[int, Meta(ge=0, le=0x1F)]
    lsr: U8
    msr: U8
    scratch: U8
    divisor: Annotated[int, Meta(ge=0, le=0xFFFF)]
    character_time: Time
    """Nanoseconds that a character takes on the wire."""
    transmit_pending: Bit
    """The interrupt for an empty holding register, until IIR is read or a byte is written."""
    timeout_pending: Bit
    timeout: Time | None
    """When four character times have passed without anyone touching the FIFO."""


class Uart(Device):
    """COM1; ``on_output`` gets every byte that the guest sends."""

    name = "uart"
    Fields = UartFields

    def __init__(
        self,
        clock: Clock,
        line: Line,
        rescheduled: Rescheduled,
        on_output: Callable[[bytes], object],
        *,
        out2_gates: bool = False,
    ) -> None:
        self._clock = clock
        self._rescheduled = rescheduled
        self._set_line = line
        self._on_output = on_output
        self._out2_gates = out2_gates
        self.queue = bytearray()
        self.fifo = bytearray()
        self._power_on()

    def _power_on(self) -> None:
        self.receiver = 0
        self.fifo.clear()
        self.ier = 0
        self.iir = IIR_NONE
        self.fcr = 0
        self.lcr = 0
        self.mcr = MCR_OUT2
        self.lsr = LSR_EMPTY | LSR_HOLDING_EMPTY
        self.msr = MSR_DCD | MSR_DSR | MSR_CTS
        self.scratch = 0
        self.divisor = 12
        self.character_time = 10 * SECOND // 9600
        self.transmit_pending = 0
        self.timeout_pending = 0
        self.timeout: int | None = None

    def reset(self) -> None:
        """As after power-on; what was typed before stays in the queue, for it is outside."""
        self._power_on()
        self._rescheduled()
        self._set_line(0)
        self._feed()

    def receive(self, data: bytes) -> None:
        """Bytes arrive from outside."""
        self.advance(self._clock.now)
        self.queue += data
        self._feed()

    def set_modem_lines(self, lines: int) -> None:
        """The other end drives CTS, DSR, RI and DCD (bits 4 to 7, as in MSR)."""
        changed = (self.msr ^ lines) >> 4
        if lines & MSR_RI:
            changed &= ~MSR_RING_ENDED  # only the trailing edge of RI counts
        self.msr = lines & 0xF0 | self.msr & MSR_DELTAS | changed
        self._update()

    def next_deadline(self) -> int | None:
        return self.timeout if self.ier & IER_RECEIVE else None

    def advance(self, now: int) -> None:
        if self.timeout is not None and now >= self.timeout:
            self.timeout = None
            self._rescheduled()
            if self.fifo:
                self.timeout_pending = 1
                self._update()

    def _update(self) -> None:
        """Find the pending interrupt of the highest priority (data sheet, table IV) and drive the line."""
        ier, lsr = self.ier, self.lsr
        if ier & IER_LINE and lsr & LSR_ERRORS:
            pending = IIR_LINE
        elif ier & IER_RECEIVE and self.timeout_pending:
            pending = IIR_TIMEOUT
        elif ier & IER_RECEIVE and lsr & LSR_READY and self._triggered():
            pending = IIR_RECEIVE
        elif ier & IER_TRANSMIT and self.transmit_pending:
            pending = IIR_TRANSMIT
        elif ier & IER_MODEM and self.msr & MSR_DELTAS:
            pending = IIR_MODEM
        else:
            pending = IIR_NONE
        self.iir = self.iir & IIR_FIFO | pending
        gated = self._out2_gates and self.mcr & (MCR_OUT2 | MCR_LOOP) != MCR_OUT2
        self._set_line(0 if pending == IIR_NONE or gated else 1)

    def _triggered(self) -> bool:
        return not self.fcr & FCR_ENABLE or len(self.fifo) >= TRIGGER_LEVELS[self.fcr >> 6]

    def _feed(self) -> None:
        """Move waiting input into the receiver as far as there is room."""
        queue = self.queue
        if not queue or self.mcr & MCR_LOOP:
            return
        if self.fcr & FCR_ENABLE:
            room = TRIGGER_LEVELS[self.fcr >> 6] - len(self.fifo)
        else:
            room = 0 if self.lsr & LSR_READY else 1
        for value in queue[: max(room, 0)]:
            self._take(value)
        del queue[: max(room, 0)]

    def _take(self, value: int) -> None:
        """One character arrives in the receiver."""
        if self.fcr & FCR_ENABLE:
            if len(self.fifo) < FIFO_SIZE:
                self.fifo.append(value)
            else:
                self.lsr |= LSR_OVERRUN
            self._start_timeout()
        else:
            if self.lsr & LSR_READY:
                self.lsr |= LSR_OVERRUN
            self.receiver = value
        self.lsr |= LSR_READY
        self._update()

    def _start_timeout(self) -> None:
        self.timeout = self._clock.now + 4 * self.character_time
        self._rescheduled()

    def read(self, offset: int, size: int) -> int:
        self.advance(self._clock.now)
        offset &= 7
        if offset == 5:
            value = self.lsr
            if value & (LSR_BREAK | LSR_OVERRUN):
                self.lsr &= ~(LSR_BREAK | LSR_OVERRUN)
                self._update()
            return value
        if offset == 0:
            return self.divisor & 0xFF if self.lcr & LCR_DLAB else self._read_receiver()
        if offset == 1:
            return self.divisor >> 8 if self.lcr & LCR_DLAB else self.ier
        if offset == 2:
            value = self.iir
            if value & 0x06 == IIR_TRANSMIT:
                self.transmit_pending = 0
                self._update()
            return value
        if offset == 3:
            return self.lcr
        if offset == 4:
            return self.mcr
        if offset == 6:
            return self._read_modem_status()
        return self.scratch

    def _read_receiver(self) -> int:
        if self.fcr & FCR_ENABLE:
            value = self.fifo.pop(0) if self.fifo else 0
            if self.fifo:
                self._start_timeout()
            else:
                self.lsr &= ~(LSR_READY | LSR_BREAK)
            self.timeout_pending = 0
        else:
            value = self.receiver
            self.lsr &= ~(LSR_READY | LSR_BREAK)
        # The line drops before more input may raise it: the 8259 needs an edge for every filling.
        self._update()
        self._feed()
        return value

    def _read_modem_status(self) -> int:
        if self.mcr & MCR_LOOP:  # DTR, RTS, OUT1 and OUT2 come back as DSR, CTS, RI and DCD
            mcr = self.mcr
            return (mcr & MCR_DTR) << 5 | (mcr & MCR_RTS) << 3 | (mcr & (MCR_OUT1 | MCR_OUT2)) << 4
        value = self.msr
        if value & MSR_DELTAS:
            self.msr &= ~MSR_DELTAS
            self._update()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        self.advance(self._clock.now)
        offset &= 7
        if offset == 0:
            if self.lcr & LCR_DLAB:
                self.divisor = self.divisor & 0xFF00 | value
                self._set_character_time()
            else:
                self._transmit(value)
        elif offset == 1:
            if self.lcr & LCR_DLAB:
                self.divisor = self.divisor & 0x00FF | value << 8
                self._set_character_time()
            else:
                self._write_ier(value & 0x0F)
        elif offset == 2:
            self._write_fcr(value)
        elif offset == 3:
            self.lcr = value
            self._set_character_time()
        elif offset == 4:
            self.mcr = value & 0x1F
            if self._out2_gates:
                self._update()
            self._feed()
        elif offset == 7:
            self.scratch = value

    def _transmit(self, value: int) -> None:
        if self.ier & IER_TRANSMIT:
            # Written and out at once: the line drops and rises, an edge for every byte.
            self.transmit_pending = 0
            self._update()
            self.transmit_pending = 1
            self._update()
        else:
            self.transmit_pending = 1
        if self.mcr & MCR_LOOP:
            self._take(value)
        else:
            self._on_output(_BYTES[value])

    def _write_ier(self, value: int) -> None:
        changed = self.ier ^ value
        self.ier = value
        if changed & IER_TRANSMIT:
            # Enabling it raises the interrupt although IIR was read before: drivers rely on that.
            self.transmit_pending = 1 if value & IER_TRANSMIT else 0
        if changed:
            self._rescheduled()
            self._update()

    def _write_fcr(self, value: int) -> None:
        if (value ^ self.fcr) & FCR_ENABLE:  # turning the FIFOs on or off empties them
            value |= FCR_CLEAR_RECEIVER | FCR_CLEAR_TRANSMITTER
        if value & FCR_CLEAR_RECEIVER:
            self.lsr &= ~(LSR_READY | LSR_BREAK)
            self.timeout = None
            self._rescheduled()
            self.timeout_pending = 0
            self.fifo.clear()
        if value & FCR_CLEAR_TRANSMITTER:
            self.transmit_pending = 1
        self.fcr = value & FCR_STICKY
        self.iir = self.iir & ~IIR_FIFO | (IIR_FIFO if value & FCR_ENABLE else 0)
        self._update()
        self._feed()

    def _set_character_time(self) -> None:
        """From the divisor and the frame: start bit, data bits, parity, stop bits."""
        if self.divisor:
            bits = 1 + (self.lcr & 3) + 5 + (2 if self.lcr & 4 else 1) + (1 if self.lcr & 8 else 0)
            self.character_time = bits * self.divisor * SECOND // BASE_BAUD
