"""A guest that is saved while it runs is saved as it was at one instruction, and cannot tell; files stand on files."""

from __future__ import annotations

import itertools
import os
import random
import re
from pathlib import Path

import pytest
from full_disk import files_limited_to
from live_move import Runner
from scripted_guest import difference
from tern_guest import build
from working_guests import CHURN, DIRTY, MEMORY, SELFTEST, Work, boot, empty_disk

from hypervisor.cli import main as cli
from hypervisor.errors import HostError, StateError, UsageError
from hypervisor.machine import VirtualMachine
from hypervisor.repl import machines
from hypervisor.state import files
from hypervisor.state.checkpoint import Checkpoints


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return empty_disk(tmp_path)


def load(path: Path, disk: Path) -> VirtualMachine:
    return machines.load(path, disks=[disk])


def journey(work: Work, folder: Path, disk: Path, saves: int, seed: int) -> None:
    """Save a guest so often while it runs, from random instructions on, whole or as a chain of increments."""
    chosen = random.Random(seed)
    with boot(work, disk) as vm, boot(work, disk) as twin:
        checkpoints = Checkpoints(vm)
        for number, start in enumerate(sorted(chosen.randrange(work.start, work.end) for _ in range(saves))):
            path = folder / f"{number}.hv"
            with Runner(vm, max(start, vm.instructions) + chosen.randrange(1, 500_000)):
                saved = checkpoints.save(path, increment=number > 0 and chosen.random() < 0.8)
            twin.run(until=saved.instructions)
            with load(path, disk) as copy:
                assert copy.instructions == saved.instructions
                assert not difference(copy, twin)
            vm.run(until=max(start, vm.instructions))
        twin.run(until=vm.instructions)
        assert not difference(vm, twin)
        assert vm.console.output == twin.console.output


@pytest.mark.parametrize("work", [SELFTEST, DIRTY, CHURN], ids=["selftest", "dirty", "churn"])
def test_a_guest_that_is_saved_while_it_runs_cannot_tell(work: Work, tmp_path: Path, disk: Path) -> None:
    journey(work, tmp_path, disk, 8, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("work", [SELFTEST, DIRTY, CHURN], ids=["selftest", "dirty", "churn"])
def test_a_hundred_saves_leave_no_trace(work: Work, tmp_path: Path, disk: Path) -> None:
    journey(work, tmp_path, disk, 100, seed=2)


def test_the_file_is_that_of_a_guest_that_was_stopped_there(tmp_path: Path, disk: Path) -> None:
    with boot(DIRTY, disk) as vm, boot(DIRTY, disk) as twin:
        vm.run(until=3_000_000)
        with Runner(vm, 6_000_000):
            saved = Checkpoints(vm).save(tmp_path / "running")
        assert saved.instructions < vm.instructions
        twin.identity = vm.identity
        twin.run(until=saved.instructions)
        files.save(twin, tmp_path / "stopped")
        assert (tmp_path / "running").read_bytes() == (tmp_path / "stopped").read_bytes()


class Chain:
    """A guest on a disk that was saved three times, the last two only what had changed."""

    def __init__(self, folder: Path, disk: Path) -> None:
        self.folder, self.disk = folder, disk
        self.paths = [folder / name for name in ("first", "second", "third")]
        with boot(CHURN, disk) as vm:
            checkpoints = Checkpoints(vm)
            for path, count in zip(self.paths, (2_000_000, 4_000_000, 6_000_000), strict=True):
                vm.run(until=count)
                checkpoints.save(path, increment=path != self.paths[0])
            files.save(vm, folder / "whole")
            self.digest = vm.digest()

    def newest(self) -> str:
        with load(self.paths[-1], self.disk) as vm:
            return vm.digest()


@pytest.fixture
def chain(tmp_path: Path, disk: Path) -> Chain:
    return Chain(tmp_path, disk)


def test_an_increment_is_small_and_squashed_it_is_what_a_whole_file_would_be(chain: Chain) -> None:
    first, second, third = chain.paths
    assert chain.newest() == chain.digest
    assert third.stat().st_size < first.stat().st_size / 2
    files.squash(third, chain.folder / "squashed")
    assert (chain.folder / "squashed").read_bytes() == (chain.folder / "whole").read_bytes()
    files.squash(third, third)  # in place of one of them
    first.unlink()
    second.unlink()
    assert chain.newest() == chain.digest


def test_a_chain_goes_on_after_it_was_loaded(chain: Chain) -> None:
    vm, checkpoints = machines.resume(chain.paths[-1], disks=[chain.disk])
    with vm, boot(CHURN, chain.disk) as twin:
        for path in chain.paths:
            with pytest.raises(UsageError, match="would stand on this very file"):
                checkpoints.save(path, increment=True)
        vm.run(until=7_000_000)
        checkpoints.save(chain.folder / "fourth", increment=True)
        twin.run(until=7_000_000)
        with load(chain.folder / "fourth", chain.disk) as copy:
            assert not difference(copy, twin)
    assert len(files.load(chain.folder / "fourth").links) == 4


def test_files_that_were_renamed_are_found_by_what_they_are(chain: Chain) -> None:
    first, second, _ = chain.paths
    aside = chain.folder / "aside"
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    (chain.folder / "noise").write_bytes(os.urandom(100))
    assert chain.newest() == chain.digest


def test_what_is_missing_is_named(chain: Chain, capfd: pytest.CaptureFixture[str]) -> None:
    first, _, third = chain.paths
    first.unlink()
    with pytest.raises(
        StateError, match=r"second: it holds what changed since first \(digest \w{16}\), which is missing"
    ):
        files.load(third)
    first.write_bytes((chain.folder / "whole").read_bytes())
    with pytest.raises(
        StateError, match=r"second: it holds what changed since first .*first is another file"
    ):
        files.load(third)
    assert cli.main(["info", str(third)]) == 1
    assert capfd.readouterr().err.count("\n") == 1
    with load(chain.folder / "whole", chain.disk) as vm:
        assert vm.digest() == chain.digest


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_chain_with_a_truncated_or_altered_file_is_refused(chain: Chain, number: int) -> None:
    chosen = random.Random(number)
    path = chain.paths[number]
    good = path.read_bytes()
    for _ in range(30):
        at = chosen.randrange(len(good))
        for bad in (good[:at], good[:at] + bytes([good[at] ^ 1 << chosen.randrange(8)]) + good[at + 1 :]):
            path.write_bytes(bad)
            with pytest.raises(StateError) as refusal:
                files.load(chain.paths[-1])
            assert "\n" not in str(refusal.value)
    path.write_bytes(good)
    assert chain.newest() == chain.digest


def test_a_file_of_the_chain_that_changes_after_the_check_is_not_used(chain: Chain) -> None:
    saved = files.load(chain.paths[-1])
    chain.paths[0].write_bytes(chain.paths[0].read_bytes())
    with pytest.raises(StateError, match="first: it has changed since it was checked"):
        saved.fill(memoryview(bytearray(MEMORY)))


def test_an_increment_needs_something_to_stand_on(tmp_path: Path, disk: Path) -> None:
    with boot(DIRTY, disk) as vm, pytest.raises(UsageError, match="nothing to stand on"):
        Checkpoints(vm).save(tmp_path / "x", increment=True)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("room", [0, 5_000, 100_000])
@pytest.mark.parametrize("increment", [False, True])
def test_a_full_disk_leaves_the_old_file_the_guest_and_the_next_increment_as_they_were(
    tmp_path: Path, disk: Path, room: int, increment: bool
) -> None:
    path = tmp_path / "x"
    with boot(DIRTY, disk) as vm, boot(DIRTY, disk) as twin:
        checkpoints = Checkpoints(vm)
        vm.run(until=2_000_000)
        checkpoints.save(tmp_path / "base")
        path.write_bytes(b"old")
        vm.run(
            until=6_000_000
        )  # an increment is longer than any of the rooms, however slow the next thread is
        with Runner(vm, 12_000_000):
            for _ in range(3):
                with files_limited_to(room), pytest.raises(HostError, match="cannot save to") as error:
                    checkpoints.save(path, increment=increment)
                assert "\n" not in str(error.value)
        assert path.read_bytes() == b"old"
        assert sorted(one.name for one in tmp_path.iterdir()) == ["base", "disk", "x"]
        twin.run(until=12_000_000)
        assert not difference(vm, twin)
        saved = checkpoints.save(path, increment=True)
        assert saved.summary.zero + saved.summary.normal > 1000
        with load(path, disk) as copy:
            assert not difference(copy, twin)


def test_going_back_in_time_is_part_of_the_next_increment(tmp_path: Path, disk: Path) -> None:
    with boot(CHURN, disk) as vm:
        vm.run(until=2_000_000)
        early = vm.snapshot()
        digest = vm.digest()
        checkpoints = Checkpoints(vm)
        checkpoints.save(tmp_path / "a")
        vm.run(until=2_100_000)
        vm.load_snapshot(early)
        checkpoints.save(tmp_path / "b", increment=True)
        with load(tmp_path / "b", disk) as copy:
            assert copy.digest() == digest
        vm.run(until=6_000_000)
        checkpoints.save(tmp_path / "c")
        vm.load_snapshot(early)
        with pytest.raises(UsageError, match="gone back in time since it was saved"):
            checkpoints.save(tmp_path / "d", increment=True)
        checkpoints.save(tmp_path / "d")
        with load(tmp_path / "d", disk) as copy:
            assert copy.digest() == digest


def test_the_prompt_and_the_command_line_save_inspect_and_squash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = [
        "until 2m",
        "save a",
        "console selftest",
        "run &",
        "save b increment",
        "save c increment",
        "stop",
        "quit",
    ]
    script_path = tmp_path / "script"
    script_path.write_text("\n".join(script))
    with script_path.open() as keys:
        monkeypatch.setattr("sys.stdin", keys)
        assert cli.main(["run", str(build()), "--append", "quiet", "--prompt"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^a: [\d,]+ bytes, at instruction 2,000,000$", out, re.MULTILINE)
    pauses = re.findall(
        r"^[bc]: [\d,]+ bytes, at instruction [\d,]+; the guest stood still for [\d.]+ ms$", out, re.MULTILINE
    )
    assert len(pauses) == 2
    assert cli.main(["info", "c"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in shown[-3:]] == [
        ["changes", "c:"],
        ["changes", "b:"],
        ["whole", "a:"],
    ]
    assert cli.main(["squash", "c", "d"]) == 0
    assert cli.main(["info", "d"]) == 0
    assert "changes" not in capsys.readouterr().out
    assert cli.main(["squash", "c"]) == 2
    assert cli.main(["squash", "nosuch", "d"]) == 1


def test_saving_is_refused_while_another_save_is_under_way(tmp_path: Path, disk: Path) -> None:
    with boot(DIRTY, disk) as vm:
        vm.run(until=2_000_000)
        one, other = Checkpoints(vm), Checkpoints(vm)
        told = itertools.count()

        def meanwhile(done: int, total: int) -> None:
            if next(told) == 3:
                with pytest.raises(UsageError, match="protected already"):
                    other.save(tmp_path / "other")

        one.save(tmp_path / "one", progress=meanwhile)
        assert next(told) > 3
        other.save(tmp_path / "other")
        assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
