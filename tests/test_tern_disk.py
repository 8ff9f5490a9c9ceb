"""tern's disk: what was synced is there after any stop, and no disk is bad enough to do harm.

The stops are real ones (QEMU is killed) and imagined ones (QEMU logs every write, and the disk is looked
at as it would be after each of them, also with writes missing that no flush has asked for yet).
"""

from __future__ import annotations

import itertools
import os
import random
import re
from pathlib import Path

import pytest
from bad_disks import BAD
from tern_disk import SECTOR, Write, assert_churned, churned_until_killed, drive, small_disk, ternfs, writes
from tern_guest import build, qemu_command, run_on_qemu
from tern_selftest import SESSION, WITH_DISK, assert_passed

from hypervisor.bench._tern_disk import make_disk
from hypervisor.devices.image import DiskFile
from hypervisor.machine import VirtualMachine

PLUGS = int(os.environ.get("TERN_PLUGS", "12"))
"""How often the plug is pulled on QEMU, three times each."""
STOPS = int(os.environ.get("TERN_STOPS", "25"))
"""How often it is pulled here."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(small_disk().data)
    return path


# ---- the tool ----


def test_what_the_tool_writes_the_tool_reads() -> None:
    chosen = random.Random(1)
    disk = ternfs.Disk.make(2048, 100)
    files = {
        f"/d{n % 3}/e/file{n}": chosen.randbytes(size)
        for n, size in enumerate([0, 1, 1023, 1024, 12288, 12289, 300_000, 500_000])
    }
    for path, contents in files.items():
        disk.write_file(path, contents)
    assert disk.check() == []
    found = disk.files()
    assert {path: data for path, data in found.items() if data is not None} == files
    assert {path for path, data in found.items() if data is None} == {
        path for n in range(3) for path in (f"/d{n}", f"/d{n}/e")
    }


def test_the_benchmarks_make_the_same_empty_disk_as_the_tool(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    make_disk(path, 20 << 10)
    assert path.read_bytes() == ternfs.Disk.make(20 << 10).data


def test_the_checker_sees_damage_to_every_structure() -> None:
    chosen = random.Random(2)
    disk = ternfs.Disk.make(512, 32, 40)
    for n in range(8):
        disk.write_file(f"/d{n % 2}/f{n}", chosen.randbytes(3000 * n))
    unseen = 0
    places = [
        *((disk.inode_start * 1024 + n * 64 + at) for n in range(1, 11) for at in (0, 2, 8, 12)),
        *(disk.bitmap_start * 1024 + n for n in range(16)),
    ]
    for place in places:
        data = bytearray(disk.data)
        data[place] ^= 1 << chosen.randrange(8) if place >= disk.bitmap_start * 1024 else 0x5A
        try:
            unseen += ternfs.Disk(data).check() == []
        except ternfs.DiskError:
            continue
    assert unseen == 0


# ---- tern ----


@pytest.mark.qemu
def test_files_are_there_after_a_restart(image: Path) -> None:
    first = run_on_qemu(
        "cat /etc/motd > /disk/a\nmkdir /disk/d; cp /bin/echo /disk/d/print; echo more >> /disk/a\npoweroff\n",
        "quiet",
        *drive(image),
    )
    assert "ls" not in first.lines
    second = run_on_qemu("cat /disk/a\n/disk/d/print it runs\npoweroff\n", "quiet", *drive(image))
    assert second.lines[-4:-1] == ["tern$ /disk/d/print it runs", "it runs", "tern$ poweroff"]
    disk = ternfs.Disk(image.read_bytes())
    assert (disk.replay(), disk.check()) == (0, [])
    assert set(disk.files()) == {"/a", "/d", "/d/print"}
    assert disk.files()["/a"].endswith(b"farther.\nmore\n")


@pytest.mark.qemu
def test_the_machine_may_end_with_its_shell(image: Path) -> None:
    run_on_qemu("echo a > /disk/a\nexit\n", "quiet", *drive(image))
    disk = ternfs.Disk(image.read_bytes())
    assert disk.files() == {"/a": b"a\n"}


@pytest.mark.qemu
def test_selftest_passes_with_a_disk(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(ternfs.Disk.make(1024, 64).data)
    assert_passed(run_on_qemu(SESSION, "quiet", *drive(path)), WITH_DISK)
    disk = ternfs.Disk(path.read_bytes())
    disk.replay()
    assert (disk.check(), disk.files()) == ([], {})
    assert [number for number in range(2, disk.inodes) if disk.inode(number).type] == []


@pytest.mark.qemu
def test_a_full_disk_is_an_error_and_no_more(image: Path) -> None:
    fill = "".join(f"cp /bin/selftest /disk/f{n}; echo $?\n" for n in range(12))
    run = run_on_qemu(
        f"{fill}rm /disk/f0 /disk/f1; cp /bin/sh /disk/sh; echo $?\nwc /disk/sh /bin/sh\npoweroff\n",
        "quiet",
        *drive(image),
    )
    assert "cp: /disk/f11: no space" in run.lines
    first, second = run.lines[-4:-2]
    assert first.split()[:3] == second.split()[:3]
    disk = ternfs.Disk(image.read_bytes())
    disk.replay()
    assert disk.check() == []


@pytest.mark.qemu
def test_a_disk_has_only_so_many_files(image: Path) -> None:
    run = run_on_qemu(
        "".join(f"echo {n} > /disk/f{n}\n" for n in range(32)) + "poweroff\n", "quiet", *drive(image)
    )
    assert [line for line in run.lines if line.startswith("sh: ")] == [
        "sh: /disk/f30: no space",
        "sh: /disk/f31: no space",
    ]
    assert len(ternfs.Disk(image.read_bytes()).files()) == 30


# ---- the plug ----


@pytest.mark.qemu
@pytest.mark.parametrize("seed", range(PLUGS))
def test_what_was_synced_survives_when_the_plug_is_pulled(seed: int, image: Path) -> None:
    """The same disk suffers three times in a row; in between tern itself has to make sense of it."""
    chosen = random.Random(seed)
    command = qemu_command('run="churn 1000000"', *drive(image))
    last = 0
    for _ in range(3):
        moment = last + chosen.randrange(1, 15)
        last = churned_until_killed(command, image, last, moment, chosen.randrange(100_000))


def test_what_was_synced_survives_a_stop_at_any_instruction(image: Path) -> None:
    """Here the plug can be pulled between any two instructions, and at the same ones again."""
    chosen = random.Random(5)
    last = 0
    for _ in range(STOPS):
        with VirtualMachine.boot(
            build(),
            memory=8 << 20,
            append='quiet run="churn 1000000"',
            disks=[DiskFile(image, persistent=True)],
        ) as vm:
            vm.run(instructions=chosen.randrange(1_000_000, 9_000_000))
            synced = [int(n) for n in re.findall(rb"synced (\d+)\r\n", vm.console.output)]
            vm.run(instructions=chosen.randrange(500_000))
        last = assert_churned(image.read_bytes(), synced[-1] if synced else last)
    assert last > 2 * STOPS


def logged_writes(image: Path, tmp_path: Path) -> list[Write]:
    log = tmp_path / "log"
    log.write_bytes(b"")
    options = (
        f"if=ide,index=0,driver=blklogwrites,file.driver=file,file.filename={image},"
        f"log.driver=file,log.filename={log}"
    )
    run = run_on_qemu("churn 12\npoweroff\n", "quiet", "-drive", options)
    assert "synced 12" in run.lines
    return list(writes(log.read_bytes()))


def apply(data: bytearray, write: Write) -> None:
    data[write.sector * SECTOR : write.sector * SECTOR + len(write.data)] = write.data


@pytest.mark.qemu
def test_no_write_is_the_wrong_one_to_be_the_last(image: Path, tmp_path: Path) -> None:
    data = bytearray(image.read_bytes())
    last = 0
    for write in logged_writes(image, tmp_path):
        apply(data, write)
        now = assert_churned(data, last - 1)  # a commit may have come in the middle of the round
        assert 0 <= now - last <= 1
        last = now
    assert last == 12


@pytest.mark.qemu
def test_the_drive_may_write_in_any_order_between_flushes(image: Path, tmp_path: Path) -> None:
    chosen = random.Random(3)
    data = bytearray(image.read_bytes())
    last = 0
    for flushes, group in itertools.groupby(logged_writes(image, tmp_path), lambda write: write.flush):
        if flushes:
            last = assert_churned(data, last - 1)
            continue
        window = list(group)
        for _ in range(4):
            torn = bytearray(data)
            for write in chosen.sample(window, chosen.randrange(len(window) + 1)):
                apply(torn, write)
            assert assert_churned(torn, last - 1) >= last
        for write in window:
            apply(data, write)
    assert last == 12


# ---- bad disks ----


@pytest.mark.qemu
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_disk_is_not_mounted_and_does_no_harm(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_bytes(BAD[kind]())
    run = run_on_qemu("ls /disk; echo well > /disk/a\npoweroff\n", "quiet", *drive(path))
    assert run.lines[0].startswith("tern: disk: not mounted: ")
    assert run.lines[1:] == [
        "tern$ ls /disk; echo well > /disk/a",
        "sh: /disk/a: read-only",
        "tern$ poweroff",
        "",
    ]


@pytest.mark.qemu
@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_disk_does_no_harm(seed: int, tmp_path: Path) -> None:
    """Whatever is in the inodes, the directories and the log, tern mounts it or does not, and lives."""
    chosen = random.Random(seed)
    disk = small_disk()
    for n in range(10):
        disk.write_file(f"/d{n % 2}/f{n}", chosen.randbytes(2000 * n))
    for _ in range(1 + seed):
        place = chosen.randrange(2 * 1024, (disk.data_start + 20) * 1024)
        disk.data[place] = chosen.randrange(256)
    path = tmp_path / "damaged"
    path.write_bytes(disk.data)
    run = run_on_qemu(
        "ls /disk /disk/d0 /disk/d1; cat /disk/d0/f8 | wc; rm /disk/d1/f9; churn 3; echo well\npoweroff 3\n",
        "quiet",
        *drive(path),
    )
    assert run.lines[-3:] == ["well", "tern$ poweroff 3", ""]
    assert run.status == 3
