"""A guest that runs while it is copied ends in the state of its twin that was never touched."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from live_move import move
from working_guests import DIRTY, MEANWHILE, SELFTEST, Work, boot, check, empty_disk

from hypervisor.migration.policy import FixedRounds, PreCopyPolicy


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
