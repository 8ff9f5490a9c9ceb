"""Whole workloads in tern, here and under QEMU TCG: the same image, the same commands, the same run.

Each workload is typed at the shell and ends with `poweroff`; the time is from power-on to power-off less
that of a run which does nothing else, so that neither QEMU's firmware nor its start counts. Here the
machine runs in this process, under both clocks; an idle guest's time is skipped. The amounts are such that
QEMU is busy for a second or so, and those of the shorter loads of the quick form a tenth of that.

Where there is a disk, it is an image of its own for each run, which both write to, and bring to the host's
disk when the guest asks for that.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

from msgspec import Struct

from hypervisor import images
from hypervisor.bench import ROUNDS, Record, record
from hypervisor.bench._tern_disk import make_disk
from hypervisor.devices.image import DiskFile
from hypervisor.errors import HostError
from hypervisor.machine import VirtualMachine
from hypervisor.paging.forms import DEFAULT_FORM

MEMORY = 32 << 20
DISK = 32 << 10
"""KiB."""
QEMU = "qemu-system-i386"
TIMEOUT = 300
"""Seconds for one run under QEMU."""
MINIMUM = 0.005
"""Seconds: less is noise, and no divisor."""
CLOCKS = ("exact", "wall")
MIB = 1 << 20


class Workload(Struct, frozen=True):
    """What a row measures. ``commands`` gets an amount; in ``name`` it is the ``{}``."""

    name: str
    amount: int
    commands: Callable[[int], list[str]]
    target: str
    disk: bool = False


def _forks(count: int) -> list[str]:
    """Shells that run 40 commands each: lines of the console are short."""
    return [f"sh -c '{'sync;' * 40}'"] * (count // 40)


def _through_pipes(mib: int) -> list[str]:
    return [f"head -c {mib * MIB} /dev/zero | cat | cat > /dev/null"]


def _to_disk(mib: int) -> list[str]:
    return [f"head -c {mib * MIB} /dev/zero > /disk/file; sync; cat /disk/file > /dev/null; rm /disk/file"]


WORKLOADS = (
    Workload("processor: sum {}", 4000, lambda n: [f"sum {n}"], "<= 1.5"),
    Workload("memory: spin, {} times", 200_000_000, lambda n: [f"spin -n {n}"], "<= 1.5"),
    Workload("processor and memory: primes {}", 20_000_000, lambda n: [f"primes {n}"], "<= 1.5"),
    Workload("fork and exec: {} commands", 1600, _forks, "<= 3"),
    Workload("pipes: {} MiB through two", 100, _through_pipes, "<= 3"),
    Workload("disk: {} MiB written, synced, read", 4, _to_disk, "<= 3", disk=True),
    Workload("selftest", 1, lambda n: ["selftest"] * n, "<= 3"),
)
IDLE = Workload("nothing", 0, lambda _: [], "<= 1")


class Failed(Exception):
    """A workload did not end as it should."""


def typed(workload: Workload, amount: int) -> bytes:
    return "\n".join((*workload.commands(amount), "poweroff", "")).encode()


def ours(
    keys: bytes, clock: str, disk: Path | None, technique: str = "trap", paging: str = DEFAULT_FORM
) -> float:
    """Seconds for the commands in a machine of ours, from the first instruction to power-off."""
    disks = [] if disk is None else [DiskFile(disk, persistent=True)]
    with VirtualMachine.boot(
        "tern", memory=MEMORY, append="quiet", clock=clock, disks=disks, technique=technique, paging=paging
    ) as vm:
        vm.console.send(keys)
        begin = perf_counter()
        stop = vm.run()
        passed = perf_counter() - begin
        if stop.reason != "exit":
            raise Failed(f"the guest ended with {stop.reason}: {stop.detail}")
        return passed


def theirs(keys: bytes, disk: Path | None) -> float:
    """Seconds for the same under QEMU."""
    arguments = [QEMU, "-M", "isapc", "-m", str(MEMORY >> 20), "-display", "none", "-serial", "stdio"]
    arguments += ["-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    arguments += ["-kernel", str(images.find("tern")), "-append", "quiet"]
    if disk is not None:
        arguments += ["-drive", f"file={disk},format=raw,if=ide"]
    begin = perf_counter()
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as qemu:
        assert qemu.stdout is not None
        qemu.stdout.read(1)  # until the guest says something, it may clear its receiver
        try:
            qemu.communicate(keys, TIMEOUT)
        finally:
            qemu.kill()
        passed = perf_counter() - begin
    if qemu.returncode != 1:
        raise Failed(f"QEMU ended with status {qemu.returncode}")
    return passed


def once(keys: bytes, where: str, *, disk: bool) -> float:
    """Seconds under a clock of ours, or under QEMU."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "disk.img") if disk else None
        if image is not None:
            make_disk(image, DISK)
        return theirs(keys, image) if where == "qemu" else ours(keys, where, image)


def medians(keys: bytes, rounds: int, *, disk: bool) -> dict[str, float]:
    """Seconds for what is typed, under each clock and under QEMU, measured in turn."""
    passed: dict[str, list[float]] = {where: [] for where in (*CLOCKS, "qemu")}
    for _ in range(rounds):
        for where, times in passed.items():
            times.append(once(keys, where, disk=disk))
    return {where: statistics.median(times) for where, times in passed.items()}


def measure(quick: bool) -> Iterator[Record]:
    """Ours, QEMU's, and the ratio, for each workload and both clocks."""
    if shutil.which(QEMU) is None:
        raise HostError(f"bench guest: {QEMU} is needed for comparison (Debian: qemu-system-x86)")
    rounds = 1 if quick else ROUNDS
    idle = {disk: medians(typed(IDLE, 0), rounds, disk=disk) for disk in (False, True)}
    for workload in WORKLOADS:
        amount = max(1, workload.amount // 10) if quick else workload.amount
        spent = medians(typed(workload, amount), rounds, disk=workload.disk)
        net = {where: max(seconds - idle[workload.disk][where], 0) for where, seconds in spent.items()}
        for clock in CLOCKS:
            yield record(
                f"{workload.name.format(amount)}, --clock {clock}",
                net[clock],
                "s",
                reference=max(net["qemu"], MINIMUM),
                reference_name="QEMU TCG",
                target=workload.target,
            )
