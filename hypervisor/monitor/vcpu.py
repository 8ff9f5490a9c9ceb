"""The virtual CPU: the registers that the guest believes to have, and its view of memory.

What de-privileging does not change (general registers, arithmetic flags, FPU) lives in the emulated
CPU itself; what it does is kept here: control and system registers, the privilege level, IF and IOPL,
and how each segment looks to the guest. ``real_ring`` is the mapping that the technique chose, so that
everything above works in the guest's terms alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hypervisor.ext.cpu import Cpu
from hypervisor.ext.memory import PhysicalMemory
from hypervisor.hardware.faults import GENERAL_PROTECTION, GuestFault
from hypervisor.hardware.x86 import (
    AC,
    CR0_BITS,
    CR0_ET,
    CS,
    D_ACCESSED,
    D_AVL,
    D_BIG,
    D_GRANULAR,
    D_SEGMENT,
    DF,
    ESP,
    ID,
    IF,
    IOPL,
    MASK_32,
    NT,
    SS,
    TF,
    VM,
)
from hypervisor.paging.base import Paging
from hypervisor.paging.physical import NOWHERE
from hypervisor.techniques.base import Technique

KNOWN_FLAGS = 0x8D5 | DF | TF | IF | IOPL | NT | VM | AC | ID
"""All bits of EFLAGS that mean something, but RF. (VIF and VIP belong to the virtual-mode extensions, which this
processor does not have: they are always clear.)"""


def words(descriptor: int) -> tuple[int, int]:
    """The two words of a descriptor, as the manuals draw it."""
    return descriptor & 0xFFFFFFFF, descriptor >> 32


def descriptor_base(low: int, high: int) -> int:
    return low >> 16 | (high & 0xFF) << 16 | high & ~0xFFFFFF


def descriptor_limit(low: int, high: int) -> int:
    """The limit in bytes."""
    limit = low & 0xFFFF | high & 0xF0000
    return limit << 12 | 0xFFF if high & D_GRANULAR else limit


class Hidden:
    """LDTR or TR: a system segment register with its hidden part; ``high`` is 0 where it is unusable."""

    def __init__(self, selector: int = 0, base: int = 0, limit: int = 0, high: int = 0) -> None:
        self.selector = selector
        self.base = base
        self.limit = limit
        self.high = high


class Ports(Protocol):
    """The I/O ports of the machine around the CPU."""

    def read_port(self, port: int, size: int) -> int: ...

    def write_port(self, port: int, size: int, value: int) -> None: ...

    def burst(self, port: int, size: int, *, to_guest: bool) -> int: ...

    def read_burst(self, port: int, size: int) -> bytes: ...

    def write_burst(self, port: int, data: bytes) -> None: ...


class VirtualCpu:
    """One virtual CPU on one emulated one. ``bus`` and ``now`` (virtual time in ns) connect it to its machine."""

    bus: Ports
    now: Callable[[], int]

    def __init__(self, cpu: Cpu, memory: PhysicalMemory, paging: Paging, technique: type[Technique]) -> None:
        self.cpu = cpu
        self.memory = memory
        self.paging = paging
        self.rings = bytes(technique.real_ring(cpl) for cpl in range(4))
        cpu.hide_ring(self.rings[0])
        self.native = KNOWN_FLAGS & ~technique.virtual_flags
        """EFLAGS bits that the emulated CPU itself keeps for the guest."""
        self.forced = technique.forced_flags | 2
        """EFLAGS bits that are always set in the real register."""
        self.cpl = 0
        self.flags = 0
        """The other bits of EFLAGS."""
        self.holding = False
        """The instruction that is being emulated holds interrupts back for one more (STI, MOV SS)."""
        self.fence = 0
        """Count of retired instructions that must not be passed without a look around (see ``Monitor.run``)."""
        self.halted = False
        self.cr0 = CR0_ET
        self.cr2 = 0
        self.cr3 = 0
        self.cr4 = 0
        self.debug = [0, 0, 0, 0, 0, 0, 0xFFFF0FF0, 0x400]
        self.gdt_base = 0
        self.gdt_limit = 0xFFFF
        self.idt_base = 0
        self.idt_limit = 0xFFFF
        self.ldtr = Hidden()
        self.tr = Hidden(high=0x8B00, limit=0xFFFF)
        self.msrs: dict[int, int] = {}

    # ---------------------------------------------------------------- flags

    def get_eflags(self) -> int:
        return self.cpu.get_eflags() & self.native | self.flags | 2

    def set_eflags(self, value: int) -> None:
        self.flags = value & ~self.native & KNOWN_FLAGS
        self.cpu.set_eflags(value & self.native | self.forced)

    eflags = property(get_eflags, set_eflags, doc="EFLAGS as the guest believes them to be.")

    def get_iopl(self) -> int:
        return self.get_eflags() >> 12 & 3

    iopl = property(get_iopl)

    def interrupts_on(self) -> bool:
        """Is IF set?"""
        return self.get_eflags() & 0x200 != 0

    def may_change_interrupts(self) -> bool:
        """Is the guest privileged enough for CLI and STI (CPL <= IOPL)?"""
        return self.cpl <= (self.get_eflags() >> 12 & 3)

    def set_interrupts(self, on: bool) -> None:
        # IF as a number: its name would be a Python object where this is compiled.
        self.set_eflags(self.get_eflags() & ~0x200 | (0x200 if on else 0))

    def in_virtual_8086(self) -> bool:
        return self.cpu.get_eflags() & VM != 0

    virtual_8086 = property(in_virtual_8086)

    def shadowed(self) -> bool:
        """Are interrupts held back until one more instruction has run?"""
        return self.cpu.shadowed()

    # ---------------------------------------------------------------- control registers

    def set_control(self, cr0: int, cr3: int, cr4: int) -> None:
        """Load CR0, CR3 and CR4 together and let paging and the FPU know."""
        self.cr0 = cr0 & CR0_BITS | CR0_ET
        self.cr3 = cr3
        self.cr4 = cr4
        self.cpu.set_fpu_control(self.cr0, self.cr4)
        self.paging.set_control(self.cr0, cr3, cr4)

    # ---------------------------------------------------------------- segments

    def segment(self, index: int) -> tuple[int, int, int, int]:
        """(selector, base, limit, second word of the descriptor) of a segment register, in the guest's terms."""
        cpu = self.cpu
        return (
            self.segment_selector(index),
            cpu.segment_base(index),
            cpu.segment_limit(index),
            self.segment_high(index),
        )

    def segment_selector(self, index: int) -> int:
        """Selector of a segment register; that of CS and SS has the guest's CPL."""
        selector = self.cpu.selector(index)
        if index in (CS, SS) and not self.cpu.get_eflags() & VM:
            selector = selector & ~3 | self.cpl
        return selector

    def segment_high(self, index: int) -> int:
        """Second word of the descriptor in a segment register, in the guest's terms."""
        high = self.cpu.segment_flags(index)
        if high & D_SEGMENT and not self.cpu.get_eflags() & VM:
            # A descriptor of DPL 0 is loaded with the kernel's real ring; AVL tells it from a true DPL 1.
            if high >> 13 & 3 == self.rings[0] and not high & D_AVL:
                high &= ~(3 << 13)
            high &= ~D_AVL
        return high

    def set_segment(self, index: int, selector: int, base: int, limit: int, high: int) -> None:
        """Load a segment register. For SS in protected mode, ``cpl`` must be up to date before."""
        if not self.cpu.get_eflags() & VM:
            dpl = high >> 13 & 3
            high &= ~D_AVL
            if high & D_SEGMENT:
                high = high & ~(3 << 13) | self.rings[dpl] << 13
                if dpl and self.rings[dpl] == self.rings[0]:
                    high |= D_AVL
            if index in (CS, SS):
                selector = selector & ~3 | self.rings[self.cpl]
        self.cpu.set_segment(index, selector, base, limit, high & ~0xFF)

    def load_segment(self, index: int, selector: int, low: int, high: int) -> None:
        """Load a segment register from a descriptor that was checked."""
        self.set_segment(index, selector, descriptor_base(low, high), descriptor_limit(low, high), high)

    def linear(self, index: int, offset: int) -> int:
        return self.cpu.segment_base(index) + offset & MASK_32

    # ---------------------------------------------------------------- stack

    def get_stack_mask(self) -> int:
        return MASK_32 if self.cpu.segment_flags(SS) & D_BIG else 0xFFFF

    stack_mask = property(get_stack_mask, doc="0xffffffff or 0xffff, by the B bit of SS.")

    def set_stack(self, offset: int) -> None:
        """ESP or SP := offset."""
        mask = self.get_stack_mask()
        self.cpu.set_general(ESP, self.cpu.general(ESP) & ~mask | offset & mask)

    # ---------------------------------------------------------------- memory, as the guest sees it

    def load(self, gva: int, size: int, user: bool = False) -> int:
        """Load 1, 2 or 4 bytes at a linear address. Raises GuestFault like a load instruction."""
        value = self.memory.load_virtual(self.paging.root, gva & MASK_32, size, user)
        if value >= 0:
            return value
        return int.from_bytes(self.read(gva, size, user), "little")

    def store(self, gva: int, size: int, value: int, user: bool = False) -> None:
        """Store 1, 2 or 4 bytes at a linear address. Raises GuestFault like a store instruction."""
        if not self.memory.store_virtual(self.paging.root, gva & MASK_32, size, value & MASK_32, user):
            self.write(gva, (value & 0xFFFFFFFF).to_bytes(4, "little")[:size], user)

    def read(self, gva: int, size: int, user: bool = False) -> bytes:
        """Any number of bytes; where there is no memory they are 0xff."""
        parts = []
        while size:
            gva &= MASK_32
            here = min(size, 4096 - (gva & 0xFFF))
            hpa = self.paging.host_address(gva, False, user)
            parts.append(b"\xff" * here if hpa == NOWHERE else self.memory.read(hpa, here))
            gva += here
            size -= here
        return b"".join(parts)

    def write(self, gva: int, data: bytes, user: bool = False) -> None:
        """Any number of bytes. All pages are checked before the first byte is stored."""
        pieces = []
        at = 0
        while at < len(data):
            gva &= MASK_32
            here = min(len(data) - at, 4096 - (gva & 0xFFF))
            pieces.append((self.paging.host_address(gva, True, user), data[at : at + here]))
            gva += here
            at += here
        for hpa, piece in pieces:
            if hpa != NOWHERE:
                self.memory.write(hpa, piece)
        self.paging.settle()

    def is_user(self) -> bool:
        return self.cpl == 3

    user = property(is_user, doc="Do the guest's own accesses count as user accesses?")

    # ---------------------------------------------------------------- descriptors

    def descriptor(self, selector: int, vector: int = GENERAL_PROTECTION) -> int:
        """The eight bytes of a descriptor in the guest's GDT or LDT.

        Raises GuestFault(``vector``, selector) if it lies beyond the table's limit.
        """
        if selector & 4:
            base, limit = self.ldtr.base, self.ldtr.limit
            if not self.ldtr.high:
                raise GuestFault(vector, selector & 0xFFFC)
        else:
            base, limit = self.gdt_base, self.gdt_limit
        offset = selector & 0xFFF8
        if offset + 7 > limit:
            raise GuestFault(vector, selector & 0xFFFC)
        low, high = self.load(base + offset, 4), self.load(base + offset + 4, 4)
        return high << 32 | low

    def touch_descriptor(self, selector: int, high: int) -> int:
        """Set the Accessed bit of a descriptor in memory, as loading it does; returns the new second word."""
        if high & D_ACCESSED:
            return high
        high |= D_ACCESSED
        self.store_descriptor_high(selector, high)
        return high

    def store_descriptor_high(self, selector: int, high: int) -> None:
        base = self.ldtr.base if selector & 4 else self.gdt_base
        self.store(base + (selector & 0xFFF8) + 4, 4, high)
