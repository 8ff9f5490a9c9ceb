"""Debian's Linux from its first instruction to its shell, here and under QEMU TCG: the same images, the same run.

Both get the same kernel, initial RAM disk, command line and amount of memory, and what counts is the time until
the shell asks for a command. Processor time (user and system) is what a boot costs; it hardly changes with
what else the host does, and is what the target is about. Wall time is shown beside it: an idle guest waits
under QEMU and under ``--clock wall``, and does not under ``--clock exact``. QEMU's times hold its start and its
firmware, some tenths of a second, which a guest here does without; ours hold that of the machine.

QEMU's processor is ``qemu32``: the ISA PC's usual one is a 486, which this kernel refuses.
"""

from __future__ import annotations

import os
import select
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter, process_time

from msgspec import Struct

from hypervisor.bench import ROUNDS, Record, record
from hypervisor.errors import HostError
from hypervisor.machine import VirtualMachine
from hypervisor.paging.forms import DEFAULT_FORM

IMAGES = "HV_LINUX_IMAGES"
"""Environment variable: where ``vmlinuz`` and ``initrd`` are, if not where `make linux-images` puts them."""
COMMAND_LINE = "console=ttyS0 noapic nolapic nokaslr"
PROMPT = b"linux# "
MEMORY = 64 << 20
QEMU = "qemu-system-i386"
TIMEOUT = 300
"""Seconds for one boot under QEMU."""
LONGEST_BOOT = 20_000_000_000
"""Instructions for one of ours under the exact clock; it takes 6,400 million."""
TARGET = "<= 1.5"
MACHINES = (("guest", "wall"), ("guest", "exact"), ("patch", "wall"), ("patch", "exact"))
"""Technique and clock. The target is that of ``guest``."""


class Spent(Struct, frozen=True):
    """What a boot took, in seconds."""

    processor: float
    wall: float


def images() -> tuple[Path, Path]:
    """The kernel and its initial RAM disk. Raises HostError where they are missing."""
    folder = Path(os.environ.get(IMAGES, "build/linux"))
    found = folder / "vmlinuz", folder / "initrd"
    for path in found:
        if not path.is_file():
            raise HostError(
                f"bench linux: no {path}: `make linux-images` fetches it, {IMAGES} says where it is"
            )
    return found


def ours(technique: str, clock: str, paging: str = DEFAULT_FORM) -> Spent:
    """A boot in a machine of this process. Raises HostError if it does not get there."""
    kernel, initrd = images()
    limit = LONGEST_BOOT if clock == "exact" else None
    begin, spent = perf_counter(), process_time()
    with VirtualMachine.boot(
        kernel,
        initrd=initrd,
        memory=MEMORY,
        technique=technique,
        clock=clock,
        append=COMMAND_LINE,
        paging=paging,
    ) as vm:
        stop = vm.run_until(PROMPT, instructions=limit)
        if stop.reason != "text":
            raise HostError(
                f"bench linux: under {technique} the guest ended with {stop.reason}: {stop.detail}"
            )
        return Spent(process_time() - spent, perf_counter() - begin)


def theirs() -> Spent:
    """A boot under QEMU. Raises HostError if it does not get there."""
    kernel, initrd = images()
    arguments = [QEMU, "-M", "isapc", "-cpu", "qemu32", "-accel", "tcg", "-m", str(MEMORY >> 20)]
    arguments += ["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"]
    arguments += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", COMMAND_LINE]
    begin = perf_counter()
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            read_to_prompt(process.stdout.fileno())
            passed = perf_counter() - begin
        finally:
            process.kill()
            _, _, usage = os.wait4(process.pid, 0)
            process.returncode = 0
    return Spent(usage.ru_utime + usage.ru_stime, passed)


def read_to_prompt(descriptor: int) -> None:
    """Read QEMU's console until the guest's shell asks for a command."""
    told = b""
    deadline = monotonic() + TIMEOUT
    while PROMPT not in told:
        ready, _, _ = select.select([descriptor], [], [], max(deadline - monotonic(), 0))
        part = os.read(descriptor, 65536) if ready else b""
        if not part:
            raise HostError(f"bench linux: QEMU's guest got no further than {told[-80:]!r}")
        told += part


def medians(boots: dict[str, Callable[[], Spent]], rounds: int) -> dict[str, Spent]:
    """What each boot takes, measured in turn."""
    spent: dict[str, list[Spent]] = {name: [] for name in boots}
    for _ in range(rounds):
        for name, boot in boots.items():
            spent[name].append(boot())
    return {
        name: Spent(
            statistics.median(one.processor for one in all_), statistics.median(one.wall for one in all_)
        )
        for name, all_ in spent.items()
    }


def measure(quick: bool) -> Iterator[Record]:
    """Processor and wall time to the shell, for each technique and clock beside QEMU's."""
    if shutil.which(QEMU) is None:
        raise HostError(f"bench linux: {QEMU} is needed for comparison (Debian: qemu-system-x86)")
    images()
    boots: dict[str, Callable[[], Spent]] = {"qemu": theirs}
    for technique, clock in MACHINES:
        boots[f"{technique}, --clock {clock}"] = partial(ours, technique, clock)
    spent = medians(boots, 1 if quick else ROUNDS)
    for technique, clock in MACHINES:
        name = f"{technique}, --clock {clock}"
        for kind in ("processor", "wall"):
            yield record(
                f"boot to shell, {kind} time: {name}",
                getattr(spent[name], kind),
                "s",
                reference=getattr(spent["qemu"], kind),
                reference_name="QEMU TCG",
                target=TARGET if technique == "guest" and kind == "processor" else None,
            )
