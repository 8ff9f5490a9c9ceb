"""Segments, gates, double faults, virtual-8086 mode and task switches: what guests/events finds, here and on QEMU.

Where QEMU does not do what the manual says, the line is named below, and what it must be here is said instead.
"""

from __future__ import annotations

import functools
import re
import subprocess

import pytest
from port_script import MISSING
from tern_guest import GUESTS, build

from hypervisor.machine import VirtualMachine

CONTRIBUTORY = frozenset((0, 10, 11, 12, 13))
VECTORS = {"#DE": 0, "#UD": 6, "#TS": 10, "#NP": 11, "#SS": 12, "#GP": 13, "#PF": 14}
PAGE_FAULT, DOUBLE_FAULT, RETURNED = 14, 8, 0x40
TRAPS = frozenset((1, 3, 4))
"""INT1, INT3 and INTO."""

DEVIATIONS = {
    r"ltr [03]": "LTR of a null selector is #GP(0)",
    r"ring 0 call far 120": "the error code of #GP for an EIP beyond the limit is 0",
    r"ring 3 call far e8": "a call gate to conforming code loads CS with the caller's privilege level as RPL",
    r"ring \d (retf|retf 8|iret) to (48|5b|120)": "the return address is compared with the segment's limit",
    r"iret to ring 3 with ss 133": "an absent stack segment is #SS",
    r"ring \d (int 50|#UD) to (5b|120)": "a handler's address is compared with the segment's limit",
    r"ring \d #\w\w then #GP by the segment's limit": "a handler's address is compared with the segment's limit",
    r"(int 50|#UD|#UD by a 16-bit gate) to (48|120)": "a handler's address is compared with the segment's limit",
    r"(int 50|#UD|#UD by a 16-bit gate) to 71": "a handler for virtual-8086 mode must be in ring 0",
    r"ring 3 iret with VM": "only ring 0 can enter virtual-8086 mode",
}
"""Where QEMU 7.2 does something else than the Intel manual: the lines' names, and what the manual says."""

BY_THE_MANUAL = {
    "ltr 0": "0d .* 00000000 ",
    "ltr 3": "0d .* 00000000 ",
    "ring 0 call far 120": "0d .* 00000000 ",
    "ring 3 call far e8": "40 .*: 001010.. 0000006b ",
    "ring 0 iret to 48": "0d .* 00000000 ",
    "ring 0 retf to 5b": "0d .* 00000000 ",
    "ring 3 retf 8 to 5b": "0d .* 00000000 ",
    "iret to ring 3 with ss 133": "0c .* 00000130 ",
    "ring 0 int 50 to 120": "0d .* 00000000 ",
    "ring 3 #UD to 5b": "0d .*ext 1.* 00000000 ",
    "int 50 to 71": "0d .*ext 0.* 00000070 ",
    "#UD to 71": "0d .*ext 1.* 00000070 ",
    "ring 3 iret with VM": "40 ds 23 es 23 ",
}


@functools.cache
def here() -> tuple[str, ...]:
    build()
    with VirtualMachine.boot(GUESTS / "build" / "events.elf") as vm:
        stop = vm.run(instructions=200_000_000)
        assert (stop.reason, stop.status) == ("exit", 1), (stop, bytes(vm.console.output[-200:]))
        return tuple(bytes(vm.console.output).decode().splitlines())


@functools.cache
def there() -> tuple[str, ...]:
    build()
    command = [
        "qemu-system-i386",
        "-M",
        "isapc",
        "-m",
        "32",
        "-nodefaults",
        "-display",
        "none",
        "-serial",
        "stdio",
    ]
    command += ["-monitor", "none", "-no-reboot", "-kernel", str(GUESTS / "build" / "events.elf")]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    return tuple(done.stdout.decode().splitlines())


def comparable(lines: tuple[str, ...]) -> list[str]:
    """Without what QEMU never does: RF in saved EFLAGS, EXT in error codes.

    And without EIP and SS in the TSS of a task in which nothing has been executed yet because its segments
    cannot be loaded: QEMU saves the EIP of the instruction that switched; here SS has the RPL of CS.
    """
    result = []
    failed = False
    for line in lines:
        if not line.startswith("  "):
            failed = re.match(r"ring \d task with (?!eflags|eip)", line) is not None
        result.append(without_hidden_bits(line, failed=failed))
    return result


def without_hidden_bits(line: str, *, failed: bool) -> str:
    line = re.sub(r" ?\(rf \d(?: ext \d)?\)", "", line)
    line = re.sub(r"\b(00\w)([13579bdf])(?=\w{4}\b)", lambda m: f"{m[1]}{int(m[2], 16) - 1:x}", line)
    if line.startswith("  b:"):
        line = re.sub(r" eip \w+", "", line)
        if failed:
            line = re.sub(r"(segments \w+ \w+) \w+", r"\1", line)
    return line


@pytest.mark.qemu
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_everything_comes_out_as_on_qemu_or_as_the_manual_says():
    ours, theirs = comparable(here()), comparable(there())
    assert ours[-1] == theirs[-1] == "== end"
    assert len(ours) == len(theirs) > 3000
    deviations = re.compile("|".join(DEVIATIONS))
    differ = [
        (a, b)
        for a, b in zip(ours, theirs, strict=True)
        if a != b and not deviations.fullmatch(a.partition(":")[0])
    ]
    assert not differ


@pytest.mark.parametrize("name", BY_THE_MANUAL)
def test_what_qemu_does_otherwise_is_done_by_the_manual(name):
    found = [line for line in here() if line.startswith(f"{name}: ")]
    assert len(found) == 1
    assert re.match(f"{re.escape(name)}: {BY_THE_MANUAL[name]}", found[0] + " "), found[0]


def test_two_exceptions_make_what_table_6_5_says():
    """Intel SDM 3A, table 6-5. Where the stack is bad for all that follows, it is a double fault in the end."""
    seen = 0
    for line in here():
        found = re.match(r"ring \d (#\w\w) then (#\w\w) by ([^:]*): (\w\w)(.*)", line)
        if found is None:
            continue
        first, second, how, vector, rest = found.groups()
        seen += 1
        if "stack" in how:
            # The double fault's own task is interrupted by its int $0x40; below that is the error code, 0.
            assert int(vector, 16) == RETURNED, line
            assert rest.endswith(" 00000000"), line
            continue
        both = VECTORS[first], VECTORS[second]
        double = both[0] in CONTRIBUTORY | {PAGE_FAULT} and both[1] in CONTRIBUTORY
        assert int(vector, 16) == (DOUBLE_FAULT if double else both[1]), line
        assert not double or "(rf 0 ext 0) 00000000 " in line, line
    assert seen == 7 * 7 + 7 * 10


def test_faults_say_that_the_instruction_runs_again_and_errors_where_they_come_from():
    """RF in the saved EFLAGS (SDM 3B, 17.3.1.1), EXT in the error code (SDM 3A, 6.13)."""
    seen = set()
    for line in here():
        found = re.match(r"([^:]*): (\w\w) [^(]*\(rf (\d) ext (\d)\)", line)
        if found is None:
            continue
        name, vector, rf, ext = found[1], int(found[2], 16), found[3] == "1", found[4] == "1"
        assert rf == (vector not in TRAPS and vector != DOUBLE_FAULT), line
        # The second of two exceptions, or one on the way to an exception's handler; and INT1 is no INT n.
        nested = re.search(r"#UD then |#UD (by a 16-bit gate )?to |int1", name) is not None
        wanted = nested and vector in CONTRIBUTORY - {0}
        assert ext == wanted, line
        seen.add((vector, rf, ext))
    assert {
        (13, True, False),
        (13, True, True),
        (11, True, True),
        (8, False, False),
        (3, False, False),
    } <= seen
