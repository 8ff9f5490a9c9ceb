"""tern's selftest, on QEMU's ISA PC and here."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from tern_disk import ternfs
from tern_guest import Run, build, exit_status, run_on_qemu
from tern_selftest import SESSION, WITH_DISK, WITHOUT_DISK, assert_passed

from hypervisor.machine import VirtualMachine
from hypervisor.migration import Listener, send

LIMIT = 3_000_000_000


def run_here(typed: str, clock: str = "exact", disks: Iterable[Path] = ()) -> Run:
    with VirtualMachine.boot(build(), memory=16 << 20, clock=clock, append="quiet", disks=disks) as vm:
        vm.console.send(typed.encode())
        stop = vm.run(instructions=LIMIT) if clock == "exact" else vm.run()
        assert stop.reason == "exit", (stop, bytes(vm.console.output[-500:]))
        return Run(bytes(vm.console.output), exit_status(stop.status))


@pytest.mark.qemu
def test_it_passes_on_qemu() -> None:
    assert_passed(run_on_qemu(SESSION), WITHOUT_DISK)


@pytest.mark.qemu
def test_it_passes_on_qemu_with_sse() -> None:
    run = run_on_qemu(SESSION, "quiet fxsr", "-cpu", "pentium3")
    assert_passed(run, Counter({"skipped: no disk": 15}))


@pytest.mark.parametrize("clock", ["exact", "wall"])
def test_it_passes_here(clock: str) -> None:
    assert_passed(run_here(SESSION, clock), WITHOUT_DISK)


@pytest.mark.parametrize("clock", ["exact", "wall"])
def test_it_passes_here_with_a_disk(clock: str, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(ternfs.Disk.make(1024, 64).data)
    assert_passed(run_here(SESSION, clock, [path]), WITH_DISK)


def hop(vm: VirtualMachine, disk: Path) -> VirtualMachine:
    """Move a guest through a socket into another machine of this process."""
    arrived: list[VirtualMachine] = []

    def receive() -> None:
        arrived.append(listener.receive(lambda config: VirtualMachine.create(config, [disk])))

    with Listener("tcp::0") as listener:
        receiver = threading.Thread(target=receive)
        receiver.start()
        send(vm, listener.address)
        receiver.join()
    vm.close()
    return arrived[0]


@pytest.mark.parametrize(
    ("session", "step"), [(SESSION, 20_000_000), ("selftest fpu\npoweroff\n", 700_000)], ids=["all", "fpu"]
)
def test_it_passes_while_it_is_moved(session: str, step: int, tmp_path: Path) -> None:
    """The machine that never moves and the one that does end in the same state, to the bit."""
    path = tmp_path / "disk"
    path.write_bytes(ternfs.Disk.make(1024, 64).data)

    def boot() -> VirtualMachine:
        vm = VirtualMachine.boot(build(), memory=16 << 20, append="quiet", disks=[path])
        vm.console.send(session.encode())
        return vm

    with boot() as twin:
        assert twin.run(instructions=LIMIT).reason == "exit"
        expected, console, length = twin.digest(), bytes(twin.console.output), twin.instructions
    assert length > 4 * step
    assert b"ALL TESTS PASSED" in console
    told = b""
    vm = boot()
    while vm.run(until=min(length, vm.instructions + step)).reason != "exit":
        told += vm.console.output
        vm = hop(vm, path)
    assert vm.epoch == length // step
    with vm:
        assert vm.digest() == expected
        assert told + vm.console.output == console
