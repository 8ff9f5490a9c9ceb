"""Port scripts: one table of port accesses, played on QEMU and on our devices.

On QEMU a small multiboot kernel (``data/port_script.S``) plays it; here it goes straight to an ``IsaPc``.
Both give the list of what every ``IN`` read and which vectors came.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hypervisor.devices.ata import Backend
from hypervisor.devices.isa_pc import IsaPc

DATA = Path(__file__).parent / "data"
MEMORY = 32 << 20
NO_INTERRUPT = 0xFFFFFFFF
MISSING = next(
    (f"{tool} is not installed" for tool in ("qemu-system-i386", "gcc") if not shutil.which(tool)), ""
)

Step = tuple[int, int, int, int]


def read(port: int, size: int = 1) -> Step:
    return (1, size, port, 0)


def write(port: int, value: int, size: int = 1) -> Step:
    return (2, size, port, value)


def delay(rounds: int) -> Step:
    """A busy loop. Here it takes no time."""
    return (3, 0, 0, rounds)


def window() -> Step:
    """Let one interrupt in."""
    return (4, 0, 0, 0)


def until_clear(port: int, bits: int) -> Step:
    """Read a port until these bits are 0; here, after a millisecond they are or will never be."""
    return (5, 1, port, bits)


def indexed(port: int, index: int) -> list[Step]:
    """Read a register behind an index port."""
    return [write(port, index), read(port + 1)]


@dataclass
class FixedClock:
    now: int = 0


@dataclass
class Recorder:
    """An IsaPc and everything that it told its surroundings."""

    memory: int = MEMORY
    disks: Sequence[Backend] = ()
    clock: FixedClock = field(default_factory=FixedClock)
    output: bytearray = field(default_factory=bytearray)
    exits: list[int] = field(default_factory=list)
    resets: int = 0

    def __post_init__(self) -> None:
        self.ram = bytearray(self.memory)
        self.pc = IsaPc(
            self.clock,
            memoryview(self.ram),
            self.output.extend,
            self.exits.append,
            self._count_reset,
            disks=self.disks,
        )

    def _count_reset(self) -> None:
        self.resets += 1

    def go(self, now: int) -> None:
        """Let time pass, and do not stop on the way."""
        self.clock.now = now
        self.pc.advance(now)


class MemoryDisk:
    """A disk of as many sectors as ``contents`` has."""

    def __init__(self, contents: bytes) -> None:
        self.contents = bytearray(contents)
        self.sectors = len(contents) // 512
        self.flushes = 0
        self.broken = False

    def read(self, sector: int, count: int) -> bytes | None:
        return None if self.broken else bytes(self.contents[sector * 512 : (sector + count) * 512])

    def write(self, sector: int, data: bytes) -> bool:
        if not self.broken:
            self.contents[sector * 512 : sector * 512 + len(data)] = data
        return not self.broken

    def flush(self) -> bool:
        self.flushes += 1
        return not self.broken


def describe(step: Step) -> str:
    operation, size, port, value = step
    if operation == 1:
        return f"in{size} {port:#x}"
    return (
        f"out{size} {port:#x} {value:#x}" if operation == 2 else ("delay", "window", "until")[operation - 3]
    )


# Instructions that the kernel in port_script.S runs for each step up to and with its port access, and
# after it. A delay of n rounds adds 2 n.
COSTS = {1: (11, 4), 2: (14, 1), 3: (12, 0), 4: (15, 6), 5: (17, 4)}


def play_here(script: list[Step], machine: Recorder | None = None, instruction_time: int = 0) -> list[int]:
    """What the script yields on our devices.

    ``instruction_time`` is what an instruction of the kernel takes, in nanoseconds; at 0, time stands still.
    """
    machine = machine or Recorder()
    pc = machine.pc
    results = []
    for operation, size, port, value in script:
        before, after = COSTS[operation]
        if operation == 3:
            after += 2 * value
        machine.go(machine.clock.now + before * instruction_time)
        if operation == 1:
            results.append(pc.read_port(port, size))
        elif operation == 2:
            pc.write_port(port, size, value)
        elif operation == 4:
            results.append(pc.acknowledge() if pc.interrupt else NO_INTERRUPT)
        elif operation == 5 and pc.read_port(port, 1) & value:
            machine.go(machine.clock.now + 1_000_000)
            pc.read_port(port, 1)
        machine.go(machine.clock.now + after * instruction_time)
    return results


def build_kernel(directory: Path, name: str = "port_script") -> Path:
    """Assemble one of the kernels in data/."""
    kernel, made = directory / f"{name}.elf", directory / f"{name}.o"
    subprocess.run(["gcc", "-m32", "-c", DATA / f"{name}.S", "-o", made], check=True)
    link = ["ld", "-m", "elf_i386", "-N", "--no-warn-rwx-segments", "--build-id=none", "-Ttext=0x100000"]
    subprocess.run([*link, "-e", "_start", made, "-o", kernel], check=True)
    return kernel


def play_on_qemu(kernel: Path, script: list[Step], *options: str) -> list[int]:
    """What the script yields on ``qemu-system-i386 -M isapc``.

    Not with ``-nographic``: that loads an extra BIOS which takes COM1 as the screen and sets it up.
    """
    table = kernel.with_suffix(".table")
    table.write_bytes(b"".join(struct.pack("<BBHI", *step) for step in script) + bytes(8))
    command = ["qemu-system-i386", "-M", "isapc", "-m", str(MEMORY >> 20), "-display", "none", "-no-reboot"]
    command += ["-monitor", "none", "-serial", "stdio", "-net", "none", "-parallel", "none"]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
    done = subprocess.run(
        [*command, *options, "-kernel", kernel, "-initrd", table],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    _, mark, lines = done.stdout.rpartition(b"\n#\n")
    assert mark, f"QEMU ended with {done.returncode}: {done.stderr!r}"
    return [int(line, 16) for line in lines.split()]


def differences(script: list[Step], here: list[int], there: list[int]) -> list[str]:
    """The results that differ, each with the steps that led to it."""
    assert len(here) == len(there)
    yields = [place for place, step in enumerate(script) if step[0] in (1, 4)]
    found = []
    for place, ours, theirs in zip(yields, here, there, strict=True):
        if ours != theirs:
            before = ", ".join(describe(step) for step in script[max(0, place - 12) : place + 1])
            found.append(f"step {place}: here {ours:#x}, QEMU {theirs:#x}, after {before}")
    return found
