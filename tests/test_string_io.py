"""REP INS and OUTS move many elements at once, and no guest, limit or interrupt can tell."""

from __future__ import annotations

import random

import pytest
from port_script import build_kernel

from hypervisor.devices.isa_pc import IsaPc
from hypervisor.machine import VirtualMachine

MEMORY = 4 << 20


@pytest.fixture(scope="module")
def boot(tmp_path_factory):
    directory = tmp_path_factory.mktemp("string-io")
    kernel = build_kernel(directory, "string_io")
    image = directory / "disk.img"
    image.write_bytes(random.Random(1).randbytes(100 * 512))

    def make() -> VirtualMachine:
        return VirtualMachine.boot(kernel, memory=MEMORY, disks=[image])

    return make


def run_to_the_end(vm: VirtualMachine) -> tuple[int, int, str]:
    stop = vm.run(instructions=1_000_000)
    assert stop.reason == "exit", stop
    return stop.status, vm.instructions, vm.digest()


def test_a_burst_ends_where_single_elements_end_and_saves_most_exits(boot, monkeypatch):
    with boot() as vm:
        together = run_to_the_end(vm)
        exits = vm.exit_counts()["port or system call site"]
    assert together[0] > 10, "the timer should have ticked in between"
    monkeypatch.setattr(IsaPc, "burst", lambda *_, **__: 0)
    with boot() as vm:
        assert run_to_the_end(vm) == together
        assert vm.exit_counts()["port or system call site"] - exits > 700


def test_a_limit_in_the_middle_of_a_burst_cuts_it_exactly_there(boot):
    """One machine does one instruction a run, so it never bursts; others come to its counts in one go."""
    with boot() as single, boot() as other:
        last = run_to_the_end(other)[1]
        with boot() as start:
            snapshot, steps = start.snapshot(), 0
        chosen = random.Random(2)
        while single.instructions + 1 < last:
            single.run(instructions=1)
            steps += 1
            if chosen.random() < 0.1:
                other.load_snapshot(snapshot)
                other.run(until=single.instructions)
                assert other.digest() == single.digest(), single.instructions
        assert steps > 2000


def test_going_on_from_any_cut_ends_the_same(boot):
    with boot() as vm:
        snapshot = vm.snapshot()
        end = run_to_the_end(vm)
        chosen = random.Random(3)
        for _ in range(100):
            vm.load_snapshot(snapshot)
            for count in sorted(chosen.sample(range(1, end[1]), 5)):
                vm.run(until=count)
                vm.load_snapshot(vm.snapshot())
            assert run_to_the_end(vm) == end
