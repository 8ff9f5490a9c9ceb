"""The 8259A pair: sixteen interrupt lines, one INTR.

Source: Intel 8259A data sheet (231468), and for the edge/level register ELCR the 82371 data sheet.
Where the data sheet and QEMU 7.2 (hw/intc/i8259.c) differ, this behaves as QEMU, because the same
guest must see the same on both. The differences a kernel might meet:

* an edge stays in IRR though its line has dropped again before the acknowledge (the data sheet
  makes that a spurious IRQ7); this is also what lets a timer be advanced late without being noticed;
* ICW1's LTIM bit and the slave identity in ICW3 are ignored, and ELCR decides edge or level.

One thing is as in the data sheet and not as in QEMU: switching special mask mode re-evaluates INT at
once. QEMU leaves that to the next edge of any line, so that INTR would depend on whether a masked timer
was advanced in time.

Offsets: 0x00 and 0x01 are the master's ports, 0x10 and 0x11 the slave's, 0x20 and 0x30 their ELCRs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from msgspec import Meta, Struct

from hypervisor.devices.device import U8, Bit, Device, Registers

CASCADE = 2
"""The master's line that the slave's INT output drives."""
SPURIOUS = 7


class ChipFields(Struct, forbid_unknown_fields=True):
    """One 8259A."""

    irr: U8
    """Interrupt request register: what waits."""
    imr: U8
    """Interrupt mask register: what is not let through."""
    isr: U8
    """In-service register: what was acknowledged and has not been ended."""
    levels: U8
    """The level of each line as the edge detector saw it last."""
    elcr: U8
    """Bit set: the line is level-triggered."""
    first: Annotated[int, Meta(ge=0, le=7)]
    """The line of the highest priority; 0 unless rotated."""
    vector: Annotated[int, Meta(ge=0, le=0xF8, multiple_of=8)]
    """ICW2: the vector of line 0."""
    read_isr: Bit
    """OCW3: the command port reads ISR instead of IRR."""
    poll: Bit
    """OCW3: the next read is a poll."""
    special_mask: Bit
    special_fully_nested: Bit
    auto_eoi: Bit
    rotate_on_auto_eoi: Bit
    icw: Annotated[int, Meta(ge=0, le=4)]
    """The initialization word that is expected next (2, 3 or 4), or 0."""
    icw4_needed: Bit
    single: Bit
    output: Bit
    """The INT pin."""


class Chip(Registers):
    """One 8259A; the pair connects two of them."""

    Fields = ChipFields

    def __init__(self, elcr_mask: int, is_master: bool) -> None:
        self.elcr_mask = elcr_mask
        self.is_master = is_master
        self.power_on()

    def power_on(self) -> None:
        """All zero, among it the levels: the devices drive their lines when they are reset."""
        self.irr = 0
        self.elcr = 0
        self.output = 0
        self._initialize()

    def _initialize(self) -> None:
        """What ICW1 clears (data sheet, "Initialization Command Words"). Level requests stay.

        The edge detector starts afresh too: a line that is driven high again counts as an edge.
        """
        self.irr &= self.elcr
        self.levels = 0
        self.imr = 0
        self.isr = 0
        self.first = 0
        self.vector = 0
        self.read_isr = 0
        self.poll = 0
        self.special_mask = 0
        self.special_fully_nested = 0
        self.auto_eoi = 0
        self.rotate_on_auto_eoi = 0
        self.icw = 0
        self.icw4_needed = 0
        self.single = 0

    def _rank(self, lines: int) -> int:
        """Priority of the first of ``lines`` in the present rotation, 0 the highest; 8 if none."""
        if not lines:
            return 8
        rotated = (lines >> self.first) | (lines << (8 - self.first)) & 0xFF
        return (rotated & -rotated).bit_length() - 1

    def _rank_in_service(self) -> int:
        in_service = self.isr
        if self.special_mask:
            in_service &= ~self.imr
        if self.special_fully_nested and self.is_master:
            in_service &= ~(1 << CASCADE)
        return self._rank(in_service)

    def requesting(self) -> int:
        """The line whose interrupt would be acknowledged now, or -1."""
        lines = self.irr & ~self.imr
        if not lines:
            return -1
        rank = self._rank(lines)
        if rank < self._rank_in_service():
            return (rank + self.first) & 7
        return -1

    def would_request(self, line: int) -> bool:
        """Whether an edge on ``line`` would make the INT pin rise."""
        bit = 1 << line
        if self.output or (self.irr | self.imr) & bit:
            return False
        return ((line - self.first) & 7) < self._rank_in_service()

    def set_line(self, line: int, level: int) -> None:
        """A device drives its line. An edge latches in IRR, masked or not."""
        bit = 1 << line
        if level:
            if self.elcr & bit or not self.levels & bit:
                self.irr |= bit
            self.levels |= bit
        else:
            if self.elcr & bit:
                self.irr &= ~bit
            self.levels &= ~bit

    def acknowledge(self, line: int) -> None:
        """INTA for ``line``; a level request stays until the device withdraws it."""
        bit = 1 << line
        if self.auto_eoi:
            if self.rotate_on_auto_eoi:
                self.first = (line + 1) & 7
        else:
            self.isr |= bit
        if not self.elcr & bit:
            self.irr &= ~bit

    def read(self, offset: int) -> int:
        if self.poll:
            self.poll = 0
            line = self.requesting()
            if line < 0:
                return 0
            self.acknowledge(line)
            return 0x80 | line
        if offset:
            return self.imr
        return self.isr if self.read_isr else self.irr

    def write(self, offset: int, value: int) -> bool:
        """Store a command or data byte; True if INT must be evaluated again."""
        if offset:
            return self._write_data(value)
        if value & 0x10:
            self._initialize()
            self.icw = 2
            self.icw4_needed = value & 1
            self.single = (value >> 1) & 1
            return True
        if value & 0x08:
            return self._write_ocw3(value)
        return self._write_ocw2(value)

    def _write_data(self, value: int) -> bool:
        if self.icw == 0:
            self.imr = value
            return True
        after_icw3 = 4 if self.icw4_needed else 0
        if self.icw == 2:
            self.vector = value & 0xF8
            self.icw = after_icw3 if self.single else 3
        elif self.icw == 3:
            self.icw = after_icw3
        else:
            self.special_fully_nested = (value >> 4) & 1
            self.auto_eoi = (value >> 1) & 1
            self.icw = 0
        return False

    def _write_ocw3(self, value: int) -> bool:
        if value & 0x04:
            self.poll = 1
        if value & 0x02:
            self.read_isr = value & 1
        if value & 0x40:
            self.special_mask = (value >> 5) & 1
            return (self.requesting() >= 0) != (self.output == 1)
        return False

    def _write_ocw2(self, value: int) -> bool:
        rotate, specific, eoi = value & 0x80, value & 0x40, value & 0x20
        line = value & 7
        if not eoi:
            if not specific:
                self.rotate_on_auto_eoi = 1 if rotate else 0
                return False
            if rotate:  # set priority; without the rotate bit it is a no-operation
                self.first = (line + 1) & 7
            return rotate != 0
        if not specific:
            rank = self._rank(self.isr)
            if rank == 8:
                return False
            line = (rank + self.first) & 7
        self.isr &= ~(1 << line)
        if rotate:
            self.first = (line + 1) & 7
        return True


class PairFields(Struct, forbid_unknown_fields=True):
    master: ChipFields
    slave: ChipFields


class Pic(Device):
    """The pair as the PC wires it: IRQ 0-7 at the master, 8-15 at the slave."""

    name = "pic"
    Fields = PairFields

    def __init__(
        self,
        set_intr: Callable[[bool], object],
        catch_up: Callable[[], object],
        changed: Callable[[], object],
    ) -> None:
        """``set_intr`` is the CPU's INTR line.

        ``catch_up`` is called before anything is read or changed: devices whose edges would not have
        raised INTR were not advanced in time, and bring IRR up to date there. ``changed`` is called when
        ``would_interrupt`` may have changed its answers.
        """
        self._set_intr = set_intr
        self._catch_up = catch_up
        self._changed = changed
        self.master = Chip(0xF8, is_master=True)
        self.slave = Chip(0xDE, is_master=False)

    def reset(self) -> None:
        self.master.power_on()
        self.slave.power_on()
        self._update(self.slave)

    def _update(self, chip: Chip) -> None:
        """A chip has changed: drive its INT pin, the slave's to the cascade line, the master's to the CPU."""
        master = self.master
        if chip is not master:
            chip.output = 1 if chip.requesting() >= 0 else 0
            master.set_line(CASCADE, chip.output)
        output = 1 if master.requesting() >= 0 else 0
        if output != master.output:
            master.output = output
            self._set_intr(output == 1)
        self._changed()

    def set_line(self, irq: int, level: int) -> None:
        """A device drives IRQ ``irq``."""
        chip = self.master if irq < 8 else self.slave
        before = chip.irr
        chip.set_line(irq & 7, level)
        if chip.irr != before:
            self._update(chip)

    def would_interrupt(self, irq: int) -> bool:
        """Whether an edge on ``irq`` would raise INTR: if not, its exact time can wait."""
        if irq < 8:
            return self.master.would_request(irq)
        return self.slave.would_request(irq - 8) and self.master.would_request(CASCADE)

    def acknowledge(self) -> int:
        """The CPU's INTA cycles: the vector. Without a request it is a spurious IRQ7 or IRQ15."""
        self._catch_up()
        master, slave = self.master, self.slave
        line = master.requesting()
        if line < 0:
            return master.vector + SPURIOUS
        if line == CASCADE:
            slave_line = slave.requesting()
            if slave_line < 0:
                slave_line = SPURIOUS
            else:
                slave.acknowledge(slave_line)
                self._update(slave)
            vector = slave.vector + slave_line
        else:
            vector = master.vector + line
        master.acknowledge(line)
        self._update(master)
        return vector

    def read(self, offset: int, size: int) -> int:
        self._catch_up()
        chip = self.slave if offset & 0x10 else self.master
        if offset & 0x20:
            return chip.elcr
        if not chip.poll:
            return chip.read(offset & 0x0F)
        value = chip.read(offset & 0x0F)
        self._update(chip)
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        self._catch_up()
        chip = self.slave if offset & 0x10 else self.master
        if offset & 0x20:
            chip.elcr = value & chip.elcr_mask
        elif chip.write(offset & 0x0F, value):
            self._update(chip)

    def fields(self) -> dict[str, Any]:
        return {"master": self.master.fields(), "slave": self.slave.fields()}

    def load(self, fields: Any) -> None:
        self.master.load(fields.master)
        self.slave.load(fields.slave)
        self._set_intr(self.master.output == 1)
