"""Looking into a stopped machine: registers, memory, translations, disassembly.

Nothing here changes the guest. Reading through page tables sets no Accessed bit.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import capstone

from hypervisor.errors import AddressError
from hypervisor.hardware.x86 import CS, D_BIG
from hypervisor.monitor.loop import EXIT_NAMES
from hypervisor.paging.entries import ADDRESS, PRESENT
from hypervisor.paging.physical import NOWHERE

if TYPE_CHECKING:
    from hypervisor.devices.isa_pc import IsaPc
    from hypervisor.ext.cpu import Cpu
    from hypervisor.ext.memory import PhysicalMemory
    from hypervisor.monitor.loop import Monitor
    from hypervisor.monitor.vcpu import VirtualCpu
    from hypervisor.paging.base import Paging
    from hypervisor.paging.physical import PhysicalMap

GENERAL_NAMES = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
SEGMENT_NAMES = ("es", "cs", "ss", "ds", "fs", "gs")


class Level(NamedTuple):
    """One level of a translation: the table entry's name, its address and what it holds."""

    name: str
    address: int
    entry: int


class Translation(NamedTuple):
    """A linear address through the guest's tables and through the shadow tables."""

    gva: int
    guest: tuple[Level, ...]
    """Levels in guest-physical memory; none while paging is off."""
    gpa: int | None
    shadow: tuple[Level, ...]
    """Levels in host-physical memory."""
    hpa: int | None


class Inspection:
    """The looking-in part of a virtual machine."""

    if TYPE_CHECKING:
        cpu: Cpu
        memory: PhysicalMemory
        vcpu: VirtualCpu
        paging: Paging
        physical: PhysicalMap
        monitor: Monitor
        devices: IsaPc

    @property
    def position(self) -> int:
        """Linear address of the next instruction: EIP, from the base of CS on."""
        return self.cpu.linear_eip()

    def registers(self) -> dict[str, int]:
        """The virtual registers: what the guest believes."""
        v = self.vcpu
        result = {name: v.cpu.general(n) for n, name in enumerate(GENERAL_NAMES)}
        result |= {"eip": v.cpu.get_eip(), "eflags": v.eflags}
        result |= {name: v.segment(n)[0] for n, name in enumerate(SEGMENT_NAMES)}
        result |= {"cpl": v.cpl, "cr0": v.cr0, "cr2": v.cr2, "cr3": v.cr3, "cr4": v.cr4}
        result |= {"gdtr": v.gdt_base, "idtr": v.idt_base, "ldtr": v.ldtr.selector, "tr": v.tr.selector}
        return result

    def real_registers(self) -> dict[str, int]:
        """The same registers as the emulated CPU holds them."""
        cpu = self.cpu
        result = {name: cpu.general(n) for n, name in enumerate(GENERAL_NAMES)}
        result |= {"eip": cpu.get_eip(), "eflags": cpu.get_eflags()}
        result |= {name: cpu.selector(n) for n, name in enumerate(SEGMENT_NAMES)}
        result |= {"cpl": cpu.ring, "cr0": cpu.control(0), "cr2": cpu.control(2), "cr3": cpu.control(3)}
        result["cr4"] = cpu.control(4)
        result |= {name: cpu.system_table(name)[1] for name in ("gdtr", "idtr")}
        result |= {name: cpu.system_table(name)[0] for name in ("ldtr", "tr")}
        return result

    def translate(self, gva: int) -> Translation:
        """A linear address through both sets of tables, without side effects."""
        gva &= 0xFFFFFFFF
        guest = tuple(Level(*level) for level in self.paging.guest.explain(gva))
        shadow = tuple(Level(*level) for level in self.paging.explain(gva))
        gpa = self.paging.guest.locate(gva)
        last = shadow[-1] if shadow else None
        found = last is not None and last.name.endswith("PTE") and last.entry & PRESENT
        hpa = last.entry & ADDRESS | gva & 0xFFF if last is not None and found else None
        return Translation(gva, guest, None if gpa == NOWHERE else gpa, shadow, hpa)

    def read(self, kind: str, address: int, size: int) -> bytes:
        """``size`` bytes at an address of kind ``gva``, ``gpa`` or ``hpa``. Raises AddressError."""
        if kind == "hpa":
            if address < 0 or address + size > self.memory.limit:
                raise AddressError(
                    f"hpa {address:#x}: the machine's host-physical memory ends at {self.memory.limit:#x}"
                )
            return bytes(self.memory.read(address, size))
        parts = []
        while size > 0:
            here = min(size, 4096 - address % 4096)
            gpa = self._physical(address) if kind == "gva" else address
            hpa = self.physical.hpa(gpa)
            if hpa == NOWHERE:
                raise AddressError(f"{kind} {address:#x}: no memory there")
            parts.append(bytes(self.memory.read(hpa, here)))
            address = address + here & 0xFFFFFFFF if kind == "gva" else address + here
            size -= here
        return b"".join(parts)

    def _physical(self, gva: int) -> int:
        gpa = self.translate(gva).gpa
        if gpa is None:
            raise AddressError(f"gva {gva:#x}: not mapped in the guest's page tables")
        return gpa

    def disassemble(self, gva: int, count: int) -> list[tuple[int, bytes, str]]:
        """``count`` instructions from a linear address on, as (address, bytes, text)."""
        big = self.cpu.segment_flags(CS) & D_BIG
        decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32 if big else capstone.CS_MODE_16)
        result: list[tuple[int, bytes, str]] = []
        while len(result) < count:
            code = self._code(gva)
            found = next(decoder.disasm(code, gva, 1), None)
            if found is None:
                result.append((gva, code[:1], "(bad)"))
                gva = gva + 1 & 0xFFFFFFFF
            else:
                result.append((gva, bytes(found.bytes), f"{found.mnemonic} {found.op_str}".strip()))
                gva = gva + found.size & 0xFFFFFFFF
        return result

    def _code(self, gva: int) -> bytes:
        """Up to 15 bytes at ``gva``, fewer where the next page is not there."""
        here = min(15, 4096 - gva % 4096)
        code = self.read("gva", gva, here)
        if here < 15:
            with contextlib.suppress(AddressError):
                code += self.read("gva", gva + here & 0xFFFFFFFF, 15 - here)
        return code

    def exit_counts(self) -> dict[str, int]:
        """How often the guest was left, by reason, most frequent first."""
        counts = sorted(self.cpu.exit_counts().items(), key=lambda item: -item[1])
        return {EXIT_NAMES.get(code, f"exit {code:#x}"): n for code, n in counts}

    def screen(self) -> str:
        """The VGA text screen, 25 lines."""
        text = self.read("gpa", 0xB8000, 80 * 25 * 2)[::2]
        lines = [
            text[80 * row : 80 * row + 80].decode("cp437").replace("\0", " ").rstrip() for row in range(25)
        ]
        return "\n".join(lines)
