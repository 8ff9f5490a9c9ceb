"""Whole workloads in tern, here and under QEMU TCG: the same image, the same commands, the same run.

Each workload is typed at the shell and ends with `poweroff`; the time is from power-on to power-off less
that of a run which does nothing else, so that neither QEMU's firmware nor its start counts. Here the
machine runs in this process, under both clocks; an idle guest's time is skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from hypervisor import images
from hypervisor.bench import Record, record
from hypervisor.errors import HostError
from hypervisor.machine import VirtualMachine

MEMORY = 32 << 20
QEMU = "qemu-system-i386"
ROUNDS = 5
TIMEOUT = 120
MINIMUM = 0.005
"""Seconds: less is noise, and no divisor."""

WORKLOADS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("processor: sum", ("sum 1000",), "<= 1.5"),
    ("memory: spin, a variable in memory", ("spin -n 50000000",), "<= 1.5"),
    ("processor: primes", ("primes 10000000",), "<= 1.5"),
    ("fork and exec: 200 commands", tuple(f"echo {n}" for n in range(200)), "<= 3"),
    ("pipes: 60 pipelines", ("cat /bin/selftest | cat | wc",) * 60, "<= 3"),
    ("selftest", ("selftest",), "<= 3"),
)


class Failed(Exception):
    """A workload did not end as it should."""


def ours(commands: tuple[str, ...], clock: str) -> float:
    """Seconds for the commands in a machine of ours, from the first instruction to power-off."""
    with VirtualMachine.boot("tern", memory=MEMORY, append="quiet", clock=clock) as vm:
        vm.console.send("\n".join((*commands, "poweroff", "")).encode())
        begin = perf_counter()
        stop = vm.run()
        passed = perf_counter() - begin
        if stop.reason != "exit":
            raise Failed(f"the guest ended with {stop.reason}: {stop.detail}")
        return passed


def theirs(commands: tuple[str, ...], image: Path) -> float:
    """Seconds for the same under QEMU."""
    arguments = [
        QEMU,
        "-M",
        "isapc",
        "-m",
        str(MEMORY >> 20),
        "-display",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
    ]
    arguments += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(image), "-append", "quiet"]
    with tempfile.TemporaryFile() as keys:
        keys.write("\n".join((*commands, "poweroff", "")).encode())
        keys.seek(0)
        begin = perf_counter()
        done = subprocess.run(arguments, stdin=keys, capture_output=True, timeout=TIMEOUT, check=False)
        passed = perf_counter() - begin
    if done.returncode != 1:
        raise Failed(f"QEMU ended with status {done.returncode}")
    return passed


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def measure(quick: bool) -> Iterator[Record]:
    """Ours, QEMU's, and the ratio, for each workload and both clocks."""
    if shutil.which(QEMU) is None:
        raise HostError(f"bench guest: {QEMU} is needed for comparison (Debian: qemu-system-x86)")
    image = images.find("tern")
    rounds = 1 if quick else ROUNDS
    idle = {clock: median([ours((), clock) for _ in range(rounds)]) for clock in ("exact", "wall")}
    idle["qemu"] = median([theirs((), image) for _ in range(rounds)])
    for name, commands, target in WORKLOADS[:: 3 if quick else 1]:
        figures: dict[str, list[float]] = {"exact": [], "wall": [], "qemu": []}
        for _ in range(rounds):
            for clock in ("exact", "wall"):
                figures[clock].append(ours(commands, clock) - idle[clock])
            figures["qemu"].append(theirs(commands, image) - idle["qemu"])
        reference = max(median(figures["qemu"]), MINIMUM)
        for clock in ("exact", "wall"):
            yield record(
                f"{name}, --clock {clock}",
                median(figures[clock]),
                "s",
                reference=reference,
                reference_name="QEMU TCG",
                target=target,
            )
