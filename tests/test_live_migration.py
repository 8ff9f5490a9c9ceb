"""A guest that runs while it is copied ends in the state of its twin that was never touched."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import pytest
from live_move import move
from scripted_guest import difference
from tern_disk import ternfs
from tern_guest import build

from hypervisor.machine import VirtualMachine
from hypervisor.migration.policy import FixedRounds, PreCopyPolicy

MEMORY = 16 << 20


class Work(NamedTuple):
    """What a guest does, and up to where that is looked at."""

    command_line: str
    start: int
    end: int


SELFTEST = Work('quiet run="selftest; poweroff"', 1_000_000, 70_000_000)
DIRTY = Work('quiet run="dirty 25600 2000"', 1_000_000, 20_000_000)


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


def journey(work: Work, folder: Path, moves: int, seed: int) -> int:
    """Move a guest so often, from random instructions on; returns the rounds that were made in all."""
    chosen = random.Random(seed)
    disk = empty_disk(folder)
    rounds = 0
    vm = boot(work, disk)
    told = b""
    with boot(work, disk) as twin:
        for start in sorted(chosen.randrange(work.start, work.end) for _ in range(moves)):
            assert vm.run(until=max(start, vm.instructions)).reason == "limit"
            policy = chosen.choice(
                [PreCopyPolicy(), PreCopyPolicy(downtime_limit=0), FixedRounds(chosen.randrange(4))]
            )
            arrived, report = move(
                vm, min(vm.instructions + MEANWHILE, work.end), policy=policy, disks=[disk]
            )
            told += vm.console.output
            vm.close()
            vm = arrived
            rounds += len(report.rounds)
            check(vm, twin)
        with vm:
            assert vm.epoch == moves
            vm.run(until=work.end)
            check(vm, twin)
            assert told + vm.console.output == twin.console.output
    return rounds


@pytest.mark.parametrize(("work", "moves"), [(SELFTEST, 12), (DIRTY, 8)], ids=["selftest", "dirty"])
def test_a_guest_that_is_moved_while_it_runs_cannot_tell(work: Work, moves: int, tmp_path: Path) -> None:
    assert journey(work, tmp_path, moves, seed=1) >= moves


@pytest.mark.soak
@pytest.mark.parametrize("work", [SELFTEST, DIRTY], ids=["selftest", "dirty"])
def test_a_hundred_live_moves_leave_no_trace(work: Work, tmp_path: Path) -> None:
    for life in range(10):
        folder = tmp_path / str(life)
        folder.mkdir()
        assert journey(work, folder, 10, seed=20 + life) >= 10
