"""Guests with a program to run and a disk, up to where a test looks at them, and their twins."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from scripted_guest import difference
from tern_disk import ternfs
from tern_guest import build

from hypervisor.machine import VirtualMachine

MEMORY = 16 << 20


class Work(NamedTuple):
    """What a guest does, and up to where that is looked at."""

    command_line: str
    start: int
    end: int


SELFTEST = Work('quiet run="selftest; poweroff"', 1_000_000, 70_000_000)
DIRTY = Work('quiet run="dirty 25600 2000"', 1_000_000, 20_000_000)
CHURN = Work('quiet run="churn 1000000"', 1_000_000, 12_000_000)

MEANWHILE = 3_000_000
"""Instructions that a guest may go on for while it is copied: on a slow host it would be at its end otherwise."""


def boot(work: Work, disk: Path) -> VirtualMachine:
    return VirtualMachine.boot(build(), memory=MEMORY, append=work.command_line, disks=[disk])


def empty_disk(folder: Path) -> Path:
    path = folder / "disk"
    path.write_bytes(ternfs.Disk.make(1024, 64).data)
    return path


def check(vm: VirtualMachine, twin: VirtualMachine) -> None:
    """Bring the twin where ``vm`` is; they must be the same there."""
    assert twin.run(until=vm.instructions).reason == "limit"
    if vm.digest() != twin.digest():
        raise AssertionError(f"at instruction {vm.instructions:,} these differ: {difference(vm, twin)}")
