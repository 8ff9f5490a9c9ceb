"""A machine whose RAM comes from its file page by page is the machine that was saved."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from working_guests import DIRTY, SELFTEST, Work, boot, check, empty_disk

from hypervisor.devices.image import DiskFile
from hypervisor.errors import FramesLostError, StateError
from hypervisor.machine import VirtualMachine
from hypervisor.repl import machines
from hypervisor.repl.prompt import Prompt
from hypervisor.repl.session import Session
from hypervisor.state import files
from hypervisor.state.lazy import LazyFile
from hypervisor.state.sections import HEADER, SECTION

MEMORY = 8 << 20


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[Path]:
    """Tern at its prompt, and some noise above it."""
    with VirtualMachine.boot("tern", memory=MEMORY, append="quiet") as vm:
        vm.run_until("tern$ ")
        vm.ram[5 << 20 : 7 << 20] = random.Random(1).randbytes(2 << 20)
        files.save(vm, tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("work", [SELFTEST, DIRTY], ids=["selftest", "dirty"])
def test_a_guest_that_is_restored_lazily_cannot_tell(work: Work, tmp_path: Path) -> None:
    disk = empty_disk(tmp_path)
    path = tmp_path / "saved"
    middle = work.start + 300_000
    with boot(work, disk) as vm:
        vm.run(until=middle)
        files.save(vm, path)
    vm, checkpoints = machines.resume(path, disks=[DiskFile(disk)], lazy=True)
    with vm, boot(work, disk) as twin:
        assert vm.absent.count > 0
        vm.run(instructions=1000)
        assert 0 < vm.absent.count < vm.config.memory // 4096
        vm.run(until=middle + 500_000)
        checkpoints.save(tmp_path / "more", increment=True)
        check(vm, twin)
        vm.run(until=middle + 2_000_000)
        check(vm, twin)
    assert (tmp_path / "more").stat().st_size < path.stat().st_size


def test_twenty_lazy_restores_leave_no_trace(tmp_path: Path) -> None:
    disk = empty_disk(tmp_path)
    path = tmp_path / "saved"
    vm = boot(SELFTEST, disk)
    with boot(SELFTEST, disk) as twin:
        for n in range(20):
            assert vm.run(until=SELFTEST.start + n * 300_007).reason == "limit"
            files.save(vm, path)
            vm.close()
            vm, _ = machines.resume(path, disks=[DiskFile(disk)], lazy=True)
            vm.run(instructions=1)
        check(vm, twin)
    vm.close()


def test_only_what_is_needed_is_read(saved: Path) -> None:
    file = LazyFile(saved)
    with VirtualMachine.create(file.state.config) as vm:
        vm.absent.begin(file.bring_to(vm.absent), file)
        vm.restore(file.state)
        vm.run(instructions=10)
        assert vm.absent.faults < 10
        before = vm.absent.count
        assert before > 0
        with machines.load(saved) as twin:
            twin.run(instructions=10)
            assert vm.digest() == twin.digest()
        assert vm.absent.count == 0


def test_a_file_that_is_replaced_or_removed_meanwhile_does_no_harm(saved: Path) -> None:
    vm, _ = machines.resume(saved, lazy=True)
    with vm, machines.load(saved) as twin:
        vm.console.send(b"echo hello\n")
        twin.console.send(b"echo hello\n")
        files.save(twin, saved)
        saved.unlink()
        for one in (vm, twin):
            assert one.run(instructions=1_000_000).reason == "limit"
        assert vm.digest() == twin.digest()


def ram_sections(data: bytes) -> list[int]:
    """Where the payloads of RAM begin."""
    found = []
    at = HEADER.size
    while at < len(data):
        name, _, length, _, _ = SECTION.unpack_from(data, at)
        if name.rstrip(b"\0") == b"ram":
            found.append(at + SECTION.size)
        at += SECTION.size + length
    return found


def test_ram_that_was_altered_is_found_when_it_is_needed(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-100] ^= 1  # in the last chunk
    saved.write_bytes(data)
    with pytest.raises(StateError, match="checksum does not match"):
        machines.load(saved)
    vm, _ = machines.resume(saved, lazy=True)
    with vm, pytest.raises(FramesLostError, match="section ram: the checksum does not match"):
        vm.digest()


def test_what_is_truncated_or_altered_elsewhere_is_refused_at_once(saved: Path) -> None:
    data = saved.read_bytes()
    places = ram_sections(data)
    for length in (0, 10, 500, places[0] + 3, places[-1] + 8, len(data) - 1):
        saved.write_bytes(data[:length])
        with pytest.raises(StateError, match="truncated"):
            LazyFile(saved)
    for at in (9, HEADER.size + 3, HEADER.size + SECTION.size, places[0] - 2, len(data) - 1):
        altered = bytearray(data)
        altered[at] ^= 1
        saved.write_bytes(altered)
        with pytest.raises(StateError):
            LazyFile(saved)
    altered = bytearray(data)
    altered[places[-1] + 8] ^= 1  # the number of a chunk's first page
    saved.write_bytes(altered)
    vm, _ = machines.resume(saved, lazy=True)
    with vm, pytest.raises(FramesLostError):
        vm.digest()


def test_the_prompt_restores_lazily(saved: Path) -> None:
    prompt = Prompt(Session(VirtualMachine.boot("tern", memory=MEMORY)), out=io.StringIO())
    prompt.execute(f"load {saved} lazy")
    prompt.execute("step 10")
    assert "error" not in prompt.out.getvalue()
    with machines.load(saved) as twin:
        twin.run(instructions=10)
        assert prompt.session.vm.digest() == twin.digest()
    prompt.session.close()


def test_files_are_closed(saved: Path) -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = opened()
    file = LazyFile(saved)
    assert opened() == before + 1
    del file
    assert opened() == before
    saved.write_bytes(saved.read_bytes()[:-1])
    with pytest.raises(StateError):
        LazyFile(saved)
    assert opened() == before
