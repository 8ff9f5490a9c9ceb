"""Commands that look into a guest that stands still."""

from __future__ import annotations

import struct

from hypervisor.errors import UsageError
from hypervisor.repl.kinds import Address, Count, Format, GuestAddress, Layout, Register
from hypervisor.repl.prompt import Prompt
from hypervisor.repl.registry import command

_EFLAGS = (
    (0, "CF"), (2, "PF"), (4, "AF"), (6, "ZF"), (7, "SF"), (8, "TF"), (9, "IF"), (10, "DF"), (11, "OF"),
    (14, "NT"), (16, "RF"), (17, "VM"), (18, "AC"), (19, "VIF"), (20, "VIP"), (21, "ID"),
)  # fmt: skip
"""Intel SDM 1, 3.4.3; IOPL, bits 12 and 13, is shown as a number."""

_LAYOUT = Layout()

_LONGEST_STRING = 4096


@command("registers", "regs", "i")
def registers(prompt: Prompt, register: Register = "") -> str:
    """Show the virtual registers beside the real ones, or one REGISTER.

    Virtual is what the guest believes; real is what the emulated CPU holds while it runs the guest. A *
    marks where they differ: that is the monitor's work.
    """
    vm = prompt.session.stopped_vm
    virtual, real = vm.registers(), vm.real_registers()
    names = [register] if register else [*virtual, *(name for name in real if name not in virtual)]
    lines = [f"{'':10}{'virtual':>10}  {'real':>10}"]
    for name in names:
        v, r = virtual.get(name), real.get(name)
        mark = "*" if None not in (v, r) and v != r else " "
        lines.append(
            f"{name:<10}{_hexadecimal(v):>10}  {_hexadecimal(r):>10} {mark} {_notes(name, v, r)}".rstrip()
        )
    return "\n".join(lines)


def _hexadecimal(value: int | None) -> str:
    return "" if value is None else f"{value:08x}"


def _notes(name: str, virtual: int | None, real: int | None) -> str:
    if name != "eflags":
        return ""
    return " / ".join(flags(value) for value in dict.fromkeys((virtual, real)) if value is not None)


def flags(value: int) -> str:
    """EFLAGS in words.

    >>> flags(0x3202)
    'IF IOPL=3'
    """
    names = [name for bit, name in _EFLAGS if value >> bit & 1]
    return " ".join([*names, f"IOPL={value >> 12 & 3}"])


@command("memory", "x")
def memory(prompt: Prompt, layout: Format = _LAYOUT, *, address: Address) -> str:
    """Show memory: `x/16xw esp`, `x/8i eip`, `x/s gpa:0x1000`.

    Virtual addresses go through the guest's own tables; reading changes nothing, not even Accessed bits.
    """
    vm = prompt.session.stopped_vm
    if layout.style == "i":
        return disassemble(prompt, address, layout.count)
    if layout.style == "s":
        return _strings(prompt, address, layout.count)
    data = vm.read(address.space, address.value, layout.count * layout.size)
    return "\n".join(dump(address, data, layout))


def dump(address: GuestAddress, data: bytes, layout: Layout) -> list[str]:
    """Lines of 16 bytes: their address, the units, and the bytes as ASCII where units are in hexadecimal."""
    unit = {1: "B", 2: "H", 4: "I", 8: "Q"}[layout.size]
    lines = []
    for start in range(0, len(data), 16):
        row = data[start : start + 16]
        count = len(row) // layout.size
        values = struct.unpack(f"<{count}{unit.lower() if layout.style == 'd' else unit}", row)
        text = " ".join(_unit(value, layout) for value in values)
        where = GuestAddress(address.space, address.value + start)
        if layout.style == "x":
            width = 16 // layout.size * (2 * layout.size + 1) - 1
            shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
            text = f"{text:<{width}}  {shown}"
        lines.append(f"{where}  {text}")
    return lines


def _unit(value: int, layout: Layout) -> str:
    match layout.style:
        case "d":
            return f"{value:>{len(str(-(1 << 8 * layout.size - 1)))}}"
        case "u":
            return f"{value:>{len(str((1 << 8 * layout.size) - 1))}}"
        case "o":
            return f"{value:0{(8 * layout.size + 2) // 3}o}"
        case _:
            return f"{value:0{2 * layout.size}x}"


def _strings(prompt: Prompt, address: GuestAddress, count: int) -> str:
    """``count`` strings that end in a zero byte, one behind the other."""
    vm = prompt.session.stopped_vm
    lines, position = [], address.value
    for _ in range(count):
        text = bytearray()
        while (
            len(text) < _LONGEST_STRING and (byte := vm.read(address.space, position + len(text), 1)) != b"\0"
        ):
            text += byte
        lines.append(f"{GuestAddress(address.space, position)}  {text.decode('latin-1')!r}")
        position += len(text) + 1
    return "\n".join(lines)


@command("disassemble", "d")
def disassemble(prompt: Prompt, address: Address | None = None, count: Count = 10) -> str:
    """Show COUNT instructions, from where the guest is or from ADDRESS (guest virtual)."""
    vm = prompt.session.stopped_vm
    start = address or GuestAddress("gva", vm.position)
    if start.space != "gva":
        raise UsageError("instructions are shown by guest virtual address")
    return "\n".join(
        f"{'=>' if gva == vm.position else '  '} {gva:#010x}  {code.hex(' '):<24} {text}"
        for gva, code, text in vm.disassemble(start.value, count)
    )


@command("exits")
def exits(prompt: Prompt) -> str:
    """Count what made the guest leave for the monitor, most frequent first."""
    counts = prompt.session.stopped_vm.exit_counts()
    total = sum(counts.values())
    lines = [
        f"{count:>14,}  {count / total:>6.1%}  {reason}"
        for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if count
    ]
    return "\n".join([*lines, f"{total:>14,}  {'':>6}  in all"])


@command("screen")
def screen(prompt: Prompt) -> str:
    """Show the VGA text screen."""
    lines = prompt.session.stopped_vm.screen().split("\n")
    width = max(len(line) for line in lines)
    if not width:
        return "(the screen is empty)"
    edge = "+" + "-" * width + "+"
    return "\n".join([edge, *(f"|{line:<{width}}|" for line in lines), edge])
