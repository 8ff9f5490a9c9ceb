"""What continuous replication costs a guest that has work to do: its time for the same instructions with a backup in
another process and without, and how long it stands still for an epoch.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from hypervisor.bench import ROUNDS, Record, compare, record
from hypervisor.bench._migration import PATIENCE, hear
from hypervisor.errors import HostError
from hypervisor.machine import VirtualMachine
from hypervisor.migration.replication.primary import Replication
from hypervisor.migration.replication.report import ReplicationReport

MEMORY: Final = 32 << 20
EPOCHS: Final = (10, 20, 40)
"""A second."""
WORK: Final = {"primes": "primes 10000000; " * 30, "selftest": "selftest; " * 30}
INSTRUCTIONS: Final = {"primes": 1_000_000_000, "selftest": 100_000_000}
"""A second or two."""
BEGIN: Final = 20_000_000
"""Instructions after which the shell's job is under way."""
TRIES: Final = 5
"""A host that is busy for half a second separates primary and backup; what was measured is nothing then."""


class Backup:
    """A monitor that waits for a primary, in a process of its own. A context."""

    def __init__(self, fence: Path) -> None:
        hv = (sys.executable, "-m", "hypervisor.cli.main", "run")
        self._process = subprocess.Popen(
            [*hv, "--backup", "tcp::0", "--fence", str(fence)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.address = hear(self._process.stderr, rb"tcp:\S+:\d+")[0].decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=PATIENCE)  # it ends when its guest needs it no more
        finally:
            self._process.kill()


def replication(quick: bool) -> Iterator[Record]:
    """Records of each piece of work at each rate of epochs, beside the same without a backup."""
    pairs = itertools.product(list(WORK)[:1] if quick else WORK, EPOCHS[:1] if quick else EPOCHS)
    for name, epochs in pairs:
        instructions = INSTRUCTIONS[name] // (10 if quick else 1)
        reports: list[ReplicationReport] = []

        def protected() -> float:
            took, report = _protected(WORK[name], instructions, epochs)  # noqa: B023 - called in this round
            reports.append(report)  # noqa: B023
            return took

        ours, alone = compare(
            protected,
            lambda: _alone(WORK[name], instructions),  # noqa: B023
            rounds=1 if quick else ROUNDS,
        )
        what = f"replication of {name}, {epochs} epochs/s"
        yield record(f"{what}: time", ours, "s", reference=alone, reference_name="no backup")
        made = max(sum(report.epochs for report in reports), 1)
        yield record(f"{what}: pause each", sum(report.total_pause for report in reports) / made, "ms")
        yield record(f"{what}: latency each", sum(report.total_latency for report in reports) / made, "ms")
        yield record(f"{what}: sent each", sum(report.transferred for report in reports) / made, "bytes")


def _alone(work: str, instructions: int) -> float:
    with _guest(work) as vm:
        return _run(vm, instructions)


def _protected(work: str, instructions: int, epochs: int) -> tuple[float, ReplicationReport]:
    for _ in range(TRIES):
        with tempfile.TemporaryDirectory() as folder, _guest(work) as vm:
            fence = Path(folder, "fence")
            with Backup(fence) as backup:
                replication = Replication(vm, backup.address, epochs=epochs, fence=fence)
                replication.start()
                try:
                    took = _run(vm, instructions)
                finally:
                    replication.dismiss()
        if replication.report.status == "dismissed":
            return took, replication.report
    raise HostError(f"bench migration: the backup was lost {TRIES} times: {replication.report.reason}")


def _guest(work: str) -> VirtualMachine:
    vm = VirtualMachine.boot("tern", memory=MEMORY, append=f'quiet run="{work}"')
    vm.run(until=BEGIN)
    return vm


def _run(vm: VirtualMachine, instructions: int) -> float:
    """Seconds for so many instructions."""
    began = time.perf_counter()
    vm.run(instructions=instructions)
    return time.perf_counter() - began
