"""Replication as its user meets it: the command line, the prompt, and one clear line when it cannot be."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from replicated import CALM, PATIENT, Followed, Work, boot

from hypervisor.errors import HostError, MigrationError, UsageError
from hypervisor.machine import VirtualMachine
from hypervisor.migration import send
from hypervisor.migration.channel import connect
from hypervisor.migration.protocol import Welcome
from hypervisor.migration.replication.fence import Fence, hold
from hypervisor.migration.replication.messages import Protect
from hypervisor.migration.replication.primary import Replication
from hypervisor.repl.prompt import Prompt
from hypervisor.repl.session import Session

ROOT = Path(__file__).parents[1]
HV = [sys.executable, "-m", "hypervisor.cli.main"]
PATIENCE = 60
IDLE = Work("quiet", 1_000_000, 1_000_000)


@pytest.fixture
def fence(tmp_path: Path) -> Path:
    return tmp_path / "fence"


@pytest.fixture
def vm() -> Iterator[VirtualMachine]:
    with boot(IDLE) as vm:
        vm.run(until=IDLE.start)
        yield vm


def replication(vm: VirtualMachine, followed: Followed, fence: Path) -> Replication:
    return Replication(vm, followed.backup.address, fence=fence, timeouts=PATIENT, silence=CALM)


# ---------------------------------------------------------------- the command line


def start(*arguments: str, **streams: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*HV, "run", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        **streams,
    )


def test_a_backup_shows_what_a_killed_primary_had_no_time_to(fence: Path) -> None:
    """What the README shows. SIGKILL as soon as something has left, at whatever instruction that is."""
    guest = ["tern", "--no-pace", "--append", 'quiet run="count 9 1; sum 300; count 9 1; poweroff 5"']
    fenced = ["--fence", str(fence)]
    with start("--backup", "tcp:127.0.0.1:0", *fenced, stderr=subprocess.PIPE) as backup:
        assert backup.stderr is not None
        address = re.search(r"tcp:\S+", backup.stderr.readline())
        assert address is not None
        with start(*guest, "--replicate", address[0], *fenced) as primary:
            deadline = time.monotonic() + PATIENCE
            while not fence.exists() or fence.read_bytes()[:1] != b"v":
                assert time.monotonic() < deadline
                time.sleep(0.001)
            assert primary.stdout is not None
            shown = primary.stdout.read(20)
            primary.kill()
            shown += primary.stdout.read()
        added, told = backup.communicate(timeout=PATIENCE)
    with start(*guest) as alone:
        whole = alone.communicate(timeout=PATIENCE)[0]
    assert "taken over" in told
    assert backup.returncode == alone.returncode == 11
    assert whole.startswith(shown)
    assert whole.endswith(added)
    assert len(shown) + len(added) >= len(whole)


def test_a_guest_that_ends_needs_no_backup_any_more(fence: Path) -> None:
    with Followed(fence) as followed:
        followed.start()
        command = ["tern", "--no-pace", "--append", 'quiet run="poweroff 5"', "--fence", str(fence)]
        with start(*command, "--replicate", str(followed.backup.address)) as primary:
            primary.communicate(timeout=PATIENCE)
        assert primary.returncode == 11
        assert followed.join().what == "dismissed"


# ---------------------------------------------------------------- the prompt


def say(prompt: Prompt, capsys: pytest.CaptureFixture[str], line: str) -> str:
    prompt.execute(line)
    return capsys.readouterr().out


def test_the_prompt_tells_who_has_the_backup(
    vm: VirtualMachine, fence: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session: Session[VirtualMachine] = Session(vm)
    prompt = Prompt(session, fence=fence)
    with Followed(fence) as followed:
        address = followed.backup.address
        followed.start()
        assert "the guest has no backup" in say(prompt, capsys, "replicate")
        assert "at most 1000" in say(prompt, capsys, f"replicate {address} 5000")
        assert "holds the guest, 40 epochs a second" in say(prompt, capsys, f"replicate {address} 40")
        assert re.search(rf"{address}: protected; \d+ epochs", say(prompt, capsys, "replicate"))
        # What would contradict what the backup knows.
        for line in ("migrate tcp:127.0.0.1:1", "restore", f"replicate {address}"):
            assert "`replicate off` first" in say(prompt, capsys, line)
        assert "is dismissed" in say(prompt, capsys, "replicate off")
        assert followed.join().what == "dismissed"
        assert "the guest has no backup" in say(prompt, capsys, "replicate off")
        assert vm.owned
        session.close()


def test_to_leave_hands_the_guest_to_the_backup(vm: VirtualMachine, fence: Path) -> None:
    session: Session[VirtualMachine] = Session(vm)
    digest = vm.digest()
    with Followed(fence) as followed:
        followed.start()
        session.replication = replication(vm, followed, fence)
        session.replication.start()
        session.close()
        outcome = followed.join()
        assert outcome.what == "taken over"
        assert isinstance(outcome.vm, VirtualMachine)
        assert outcome.vm.digest() == digest
        assert not vm.owned


# ---------------------------------------------------------------- what is refused


def test_nobody_there_is_told_and_the_guest_goes_on(vm: VirtualMachine, fence: Path) -> None:
    with Followed(fence) as followed:
        address = followed.backup.address
    with pytest.raises(MigrationError, match=r"replication to .* failed: .*; the guest has no backup"):
        Replication(vm, address, fence=fence, timeouts=PATIENT).start()
    assert vm.run(instructions=1000).reason == "limit"
    assert not fence.exists()


def test_monitors_that_see_different_fences_do_not_pair(vm: VirtualMachine, tmp_path: Path) -> None:
    with Followed(tmp_path / "theirs") as followed:
        followed.start()
        with pytest.raises(MigrationError, match="not the one that the primary has"):
            replication(vm, followed, tmp_path / "ours").start()
        assert vm.owned


def test_a_migration_to_a_backup_is_refused(vm: VirtualMachine, fence: Path) -> None:
    with Followed(fence) as followed:
        followed.start()
        with pytest.raises(MigrationError, match="a backup waits there"):
            send(vm, followed.backup.address, timeouts=PATIENT)
        assert vm.owned


def test_another_version_is_refused_politely(fence: Path) -> None:
    with Followed(fence) as followed:
        followed.start()
        with connect(followed.backup.address, PATIENT) as channel:
            channel.send(Protect(99, "0" * 32, 0, "1" * 32))
            with pytest.raises(MigrationError, match="version 99 of replication"):
                channel.receive(Welcome)


def test_a_guest_that_does_not_fit_is_refused(vm: VirtualMachine, fence: Path) -> None:
    def no_machine(_: object) -> VirtualMachine:
        raise UsageError("there is no room")

    with Followed(fence) as followed:
        waiting = threading.Thread(target=lambda: _closed(followed, no_machine))
        waiting.start()
        with pytest.raises(MigrationError, match="there is no room"):
            replication(vm, followed, fence).start()
        followed.backup.close()
        waiting.join()


def _closed(followed: Followed, make: object) -> None:
    with pytest.raises(MigrationError, match="closed"):
        followed.backup.follow(make)  # type: ignore[arg-type]


# ---------------------------------------------------------------- the fence


def test_one_lock_at_a_time(fence: Path) -> None:
    with hold(fence) as first, Fence(fence) as second:
        assert not second.lock()
        first.offer("a" * 32)
        assert second.standing("a" * 32) == "offered"
        first.validate()
        assert second.standing("a" * 32) == "valid"
        assert second.standing("b" * 32) == "struck out"
        first.strike_out()
        assert second.standing("a" * 32) == "struck out"
        with pytest.raises(MigrationError, match="another monitor holds it"):
            hold(fence)
        first.close()
        assert second.lock()


def test_a_fence_whose_backup_may_take_over_is_left_alone(fence: Path) -> None:
    with hold(fence) as dead:
        dead.offer("a" * 32)
        dead.validate()
    with pytest.raises(MigrationError, match="a backup that may take over"):
        hold(fence)


def test_a_removed_fence_is_not_somebody_else_s(fence: Path) -> None:
    old = hold(fence)
    fence.unlink()
    with hold(fence) as new:
        old.remove()
        assert fence.exists()
        new.offer("a" * 32)


def test_a_fence_that_is_no_file_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere" / "fence", Path("/dev/null")):
        with pytest.raises(HostError, match=f"fence {path}: "):
            Fence(path)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(HostError, match="symbolic link"):
        Fence(tmp_path / "link")
