"""tern at work on a disk: moved, resumed from a file; and `hv run --disk`."""

from __future__ import annotations

import io
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tern_disk import ternfs
from tern_guest import build

from hypervisor.cli import main as cli
from hypervisor.machine import VirtualMachine
from hypervisor.state.stream import StreamReader, write_stream

HV = [sys.executable, "-m", "hypervisor.cli.main"]
ROOT = Path(__file__).parents[1]
MEMORY = 8 << 20
CHURN = 'quiet run="churn 1000000"'


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(ternfs.Disk.make(1024, 64).data)
    return path


def hv(*arguments: object, keys: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HV, *map(str, arguments)],
        input=keys,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )


def churning(*disks: str | Path) -> VirtualMachine:
    return VirtualMachine.boot(build(), memory=MEMORY, append=CHURN, disks=disks)


def moved(vm: VirtualMachine, *disks: str | Path) -> VirtualMachine:
    """The machine in another one, by way of its stream; the first is closed."""
    stream = io.BytesIO()
    vm.owned = False  # as when it is sent
    write_stream(vm.capture(), vm.ram, stream.write)
    reader = StreamReader(io.BytesIO(stream.getvalue()).readinto)
    state = reader.read_state()
    there = VirtualMachine.create(state.config, disks)
    reader.read_ram(there.ram)
    there.restore(state)
    vm.close()
    return there


@pytest.mark.parametrize("mode", ["", ",persist"])
def test_a_guest_on_a_disk_that_moves_ends_like_its_twin_that_stays(image, tmp_path, mode):
    twins = tmp_path / "twin.img"
    twins.write_bytes(image.read_bytes())
    last = 12_000_000
    with churning(f"{twins}{mode}") as twin:
        twin.run(until=last)
        digest = twin.digest()
    vm = churning(f"{image}{mode}")
    for count in sorted(random.Random(mode).sample(range(1, last), 12)):
        vm.run(until=count)
        vm = moved(vm, f"{image}{mode}")
    with vm:
        vm.run(until=last)
        assert vm.digest() == digest
    assert twins.read_bytes() == image.read_bytes()


def test_the_command_line_gives_a_guest_its_disk_and_keeps_the_image_clean(image):
    before = image.read_bytes()
    keys = "echo kept > /disk/a; sync; cat /disk/a\npoweroff\n"
    done = hv("run", "tern", "--disk", image, "--no-pace", keys=keys)
    assert "kept" in done.stdout.splitlines()
    assert image.read_bytes() == before
    hv("run", "tern", "--disk", f"{image},persist", "--no-pace", keys=keys)
    assert ternfs.Disk(image.read_bytes()).files() == {"/a": b"kept\n"}


def test_a_saved_guest_is_resumed_with_its_disk_and_not_without(image, tmp_path):
    saved = tmp_path / "saved"
    script = f"run 5m\nsave {saved}\nload {saved}\ndigest\nquit\n"
    first = hv("run", "tern", "--append", CHURN, "--disk", image, "--prompt", keys=script)
    assert first.returncode == 0, first.stderr
    (digest,) = re.findall("^[0-9a-f]{32}$", first.stdout, re.MULTILINE)
    again = hv("run", "--load", saved, "--disk", image, "--prompt", keys="digest\nquit\n")
    assert digest in again.stdout
    small = tmp_path / "small.img"
    small.write_bytes(bytes(512))
    for arguments, reason in (
        ([], "the guest has 1 disk (disk.img), none given here: name the same images with --disk"),
        (["--disk", small], "disk 0 (disk.img) has 2048 sectors"),
        (["--disk", f"{image},persist"], "must be named without ,persist"),
    ):
        refused = hv("run", "--load", saved, *arguments)
        assert refused.returncode == 1
        assert reason in refused.stderr
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("disks", "status"),
    [
        (["/nowhere/x.img"], 1),
        (["/"], 1),
        (["/dev/null"], 1),
        ([""], 2),
        ([",persist"], 2),
        (["a", "b", "c"], 2),
    ],
)
def test_a_bad_disk_is_told_in_one_line(disks, status, capfd):
    arguments = [argument for disk in disks for argument in ("--disk", disk)]
    assert cli.main(["run", str(build()), *arguments]) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "disk" in err


def test_a_disk_of_noise_crashes_neither_guest_nor_monitor(tmp_path):
    for seed in range(3):
        path = tmp_path / f"noise{seed}"
        path.write_bytes(random.Random(seed).randbytes(512 * (1 + seed * 700)))
        done = hv("run", "tern", "--disk", path, "--no-pace", keys="ls /disk\npoweroff\n")
        assert done.returncode == 1, done.stderr
        assert "poweroff" in done.stdout
        assert "Traceback" not in done.stderr
