"""The way of an address through the page tables: the guest's own, and the monitor's."""

from __future__ import annotations

from collections.abc import Sequence

from hypervisor.errors import UsageError
from hypervisor.repl.kinds import Address
from hypervisor.repl.prompt import Prompt
from hypervisor.repl.registry import command

Level = tuple[str, int, int]
"""An entry on the way: the level's name, the entry's address, the entry."""

PRESENT = 1 << 0
PAGE_SIZE = 1 << 7
NO_EXECUTE = 1 << 63

_BITS = ((1, "W", "-"), (2, "U", "S"), (5, "A", "-"), (6, "D", "-"), (8, "G", "-"))
"""Writable, User or Supervisor, Accessed, Dirty, Global (Intel SDM 3A, tables 4-5, 4-6, 4-19)."""


@command("translate", "t")
def translate(prompt: Prompt, address: Address) -> str:
    """Show each level of a guest virtual address's translation, in both sets of tables.

    The guest's tables lead to a guest-physical address; the shadow, which the emulated CPU really walks,
    to a host-physical one. The shadow is filled on demand: an entry that is missing there and present in
    the guest's is a hidden fault that has not happened yet. Under nested paging the CPU walks the guest's tables
    and then the nested ones, which translate the guest-physical address. Looking changes nothing.
    """
    if address.space != "gva":
        raise UsageError("a guest virtual address is translated; others have no tables on their way")
    gva = address.value
    translation = prompt.session.stopped_vm.translate(gva)
    guest, shadow = list(translation.guest), list(translation.shadow)
    lines = [f"guest tables of {address}" + ("" if guest else ": paging is off")]
    lines += [describe_entry(level, "gpa") for level in guest]
    lines.append("  -> " + result("gpa", gva, guest, pae=False))
    nested = not shadow or shadow[0][0] == "nPDE"
    lines += ["", f"{'nested' if nested else 'shadow'} tables of {address}"]
    lines += [describe_entry(level, "hpa") for level in shadow]
    lines.append("  -> " + (result("hpa", gva, shadow, pae=not nested) if shadow else "nothing"))
    return "\n".join(lines)


def describe_entry(level: Level, space: str) -> str:
    """One entry with its bits in letters.

    >>> describe_entry(("PTE", 0x1004, 0x8000000000005067), "hpa")
    '  PTE    hpa:0x00001004  8000000000005067  WUAD- NX'
    """
    name, address, entry = level
    width = 16 if space == "hpa" else 8
    return f"  {name:<6} {space}:{address:#010x}  {entry:0{width}x}  {bits(name, entry)}"


def bits(name: str, entry: int) -> str:
    """The bits of an entry as letters; a PDPTE has none but Present (Intel SDM 3A, table 4-8)."""
    if not entry & PRESENT:
        return "not present"
    if name == "PDPTE":
        return "present"
    letters = "".join(on if entry >> bit & 1 else off for bit, on, off in _BITS)
    large = " large" if name == "PDE" and entry & PAGE_SIZE else ""
    return letters + large + (" NX" if entry & NO_EXECUTE else "")


def result(space: str, gva: int, levels: Sequence[Level], *, pae: bool) -> str:
    """Where the walk ends. Without levels there is no paging, and an address means itself."""
    if not levels:
        return f"{space}:{gva:#010x}"
    name, _, entry = levels[-1]
    if not entry & PRESENT:
        return f"nothing: a page fault at the {name}"
    # A page table maps 4 KiB; an entry of a directory without a table behind it maps 4 MiB, in PAE 2 MiB.
    offset = 12 if name.endswith("PTE") else 21 if pae else 22
    frame = entry & ((1 << 52) - 1) & ~((1 << offset) - 1)
    return f"{space}:{frame | gva & ((1 << offset) - 1):#010x}"
