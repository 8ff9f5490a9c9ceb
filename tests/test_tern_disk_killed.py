"""A monitor killed with SIGKILL while tern works on a persistent disk loses nothing that was synced.

And disks that are no disks: they are refused in one line, or tern refuses to mount them; nobody crashes.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
from bad_disks import BAD
from tern_disk import churned_until_killed, small_disk
from tern_guest import build

from hypervisor.devices.image import DiskFile
from hypervisor.errors import HypervisorError
from hypervisor.machine import VirtualMachine

KILLS = int(os.environ.get("TERN_KILLS", "200"))
"""How often the monitor is killed by `make soak`."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(small_disk().data)
    return path


def kill_under_load(image: Path, chosen: random.Random, last: int) -> int:
    """Let tern fill the disk under a monitor that is killed somewhere; returns the last round on the disk."""
    command = [
        sys.executable,
        "-m",
        "hypervisor.cli.main",
        "run",
        str(build()),
        "--no-pace",
        "--memory",
        "8m",
    ]
    command += ["--disk", f"{image},persist", "--append", 'run="churn 1000000"']
    moment = last + chosen.randrange(1, 15)
    return churned_until_killed(command, image, last, moment, chosen.randrange(300_000))


def test_what_was_synced_survives_when_the_monitor_is_killed(image: Path) -> None:
    chosen = random.Random(1)
    last = 0
    for _ in range(4):
        last = kill_under_load(image, chosen, last)


@pytest.mark.soak
def test_what_was_synced_survives_two_hundred_kills(image: Path) -> None:
    chosen = random.Random(2)
    last = 0
    for n in range(KILLS):
        if n % 10 == 0:
            image.write_bytes(small_disk().data)
            last = 0
        last = kill_under_load(image, chosen, last)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_disk_harms_neither_tern_nor_the_monitor(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_bytes(BAD[kind]())
    try:
        vm = VirtualMachine.boot(build(), memory=8 << 20, append="quiet", disks=[DiskFile(path)])
    except HypervisorError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "\n" not in refusal
        return
    with vm:
        vm.console.send(b"ls /disk; echo well > /disk/a\npoweroff 3\n")
        stop = vm.run(instructions=200_000_000)
        assert (stop.reason, stop.status) == ("exit", 7)
        text = vm.console.output.decode()
        assert text.startswith("tern: disk: not mounted: ")
        assert "sh: /disk/a: read-only" in text
