"""A guest that is stopped, moved, disturbed or put away reaches the same state as one that never was."""

from __future__ import annotations

import functools
import itertools
import os
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from other_monitor import OtherMonitor
from scripted_guest import LAST, MEMORY, TYPED, Reference, advance, boot, difference, moments, straight

from hypervisor.machine import VirtualMachine
from hypervisor.migration import Listener, send
from hypervisor.repl import machines
from hypervisor.state import files

STARTS = moments(seed=1, number=50)
LENGTHS = [random.Random(2).choice([1, 7, 1_000, 50_000, 400_000]) for _ in STARTS]
JOURNEYS = [(start, start + length) for start, length in zip(STARTS, LENGTHS, strict=True)]
FIVE_STOPS = moments(seed=3, number=5)
DISTURBED = moments(seed=4, number=8)
ENDS = [end for _, end in JOURNEYS]


@functools.cache
def reference() -> Reference:
    return Reference([*STARTS, *ENDS, *FIVE_STOPS, *DISTURBED, LAST])


@pytest.fixture(scope="module")
def other() -> Iterator[OtherMonitor]:
    with OtherMonitor() as monitor:
        yield monitor


def hop(vm: VirtualMachine, listener: Listener) -> VirtualMachine:
    """Move a guest through a TCP socket into another machine of this process."""
    arrived: list[VirtualMachine] = []
    receiver = threading.Thread(target=lambda: arrived.append(listener.receive(VirtualMachine.create)))
    receiver.start()
    send(vm, listener.address)
    receiver.join()
    vm.close()
    return arrived[0]


def test_the_twin_does_what_its_script_says() -> None:
    """Otherwise all the rest would compare guests that do nothing."""
    told = reference().console[LAST].decode()
    for line in ("sum 1: 58cf84d2", "typed in two pieces", "killed: read from", "frames:", "[2] killed"):
        assert line in told
    assert len(set(reference().digest.values())) == len(reference().digest)


@pytest.mark.smoke
def test_two_straight_runs_agree() -> None:
    with boot() as vm:
        reference().check(advance(vm, STARTS[10]))
        reference().check(advance(vm, LAST))


@pytest.mark.parametrize(("start", "end"), JOURNEYS[::2])
def test_a_guest_that_moves_within_this_process_cannot_tell(start: int, end: int) -> None:
    with Listener("tcp::0") as listener:
        vm = advance(boot(), start)
        before = bytes(vm.console.output)
        with hop(vm, listener) as arrived:
            reference().check(arrived)
            reference().check(advance(arrived, end))
            assert before + arrived.console.output == reference().console[end]


@pytest.mark.parametrize(("start", "end"), JOURNEYS[1::2])
def test_a_guest_that_moves_to_another_process_cannot_tell(start: int, end: int, other: OtherMonitor) -> None:
    with boot() as vm:
        advance(vm, start)
        send(vm, other.expect())
        before = vm.console.output.decode("latin-1")
    assert other.hear()["digest"] == reference().digest[start]
    there = other.ask(do="advance", to=end)
    assert there["digest"] == reference().digest[end]
    assert before + there["console"] == reference().console[end].decode("latin-1")


def test_five_migrations_in_a_row_between_three_processes(other: OtherMonitor) -> None:
    with OtherMonitor() as third, Listener("tcp::0") as here:
        vm = advance(boot(), FIVE_STOPS[0])
        send(vm, other.expect())
        vm.close()
        other.hear()
        where = other
        for count, to in zip(FIVE_STOPS[1:], (third, other, third), strict=False):
            assert where.ask(do="advance", to=count)["digest"] == reference().digest[count]
            where.ask(do="send", to=to.expect())
            to.hear()
            where = to
        assert where.ask(do="advance", to=FIVE_STOPS[4])["digest"] == reference().digest[FIVE_STOPS[4]]
        where.tell(do="send", to=str(here.address))
        with here.receive(VirtualMachine.create) as vm:
            where.hear()
            assert vm.epoch == 5
            reference().check(advance(vm, LAST))


@pytest.mark.parametrize("stop_seed", range(3))
def test_stop_requests_at_random_moments_leave_no_trace(stop_seed: int) -> None:
    chosen = random.Random(stop_seed)
    finished = threading.Event()
    stops = itertools.count()

    def disturb() -> None:
        while not finished.wait(chosen.random() * 0.002):
            vm.request_stop()

    def run(vm: VirtualMachine, count: int) -> None:
        while True:
            stop = vm.run(until=count)
            if stop.reason == "limit":
                return
            assert stop.reason == "stop"
            next(stops)

    with boot() as vm:
        somebody = threading.Thread(target=disturb)
        somebody.start()
        try:
            for count in DISTURBED:
                reference().check(advance(vm, count, run))
        finally:
            finished.set()
            somebody.join()
    assert next(stops) > 0


@pytest.mark.parametrize("seed", range(4))
def test_hidden_faults_leave_no_trace(seed: int) -> None:
    """Dropping the shadow tables makes every page fault anew, in the middle of whatever the guest does."""
    chosen = random.Random(seed)

    def run(vm: VirtualMachine, count: int) -> None:
        while vm.instructions < count:
            straight(vm, min(count, vm.instructions + chosen.choice([1, 50, 3_000, 60_000])))
            vm.paging.drop()

    with boot() as vm:
        for count in DISTURBED:
            run_here = run if count - vm.instructions < 1_500_000 else straight
            reference().check(advance(vm, count, run_here))


def test_dropping_the_shadow_tables_at_every_instruction_leaves_no_trace() -> None:
    first = 2_499_900

    def run(vm: VirtualMachine, count: int) -> None:
        while vm.instructions < count:
            straight(vm, vm.instructions + 1)
            vm.paging.drop()

    with boot() as vm, boot() as twin:
        advance(vm, first)
        advance(twin, first)
        advance(vm, first + 2_000, run)
        advance(twin, first + 2_000)
        assert vm.state_digest() == twin.state_digest()


@pytest.mark.parametrize("count", DISTURBED)
def test_a_guest_that_was_saved_and_loaded_cannot_tell(count: int, tmp_path: Path) -> None:
    with boot() as vm:
        files.save(advance(vm, count), tmp_path / "guest")
        reference().check(vm)
    with machines.load(tmp_path / "guest") as vm:
        reference().check(vm)
        reference().check(advance(vm, LAST))


def test_a_guest_moves_between_compiled_and_interpreted_monitors(other: OtherMonitor) -> None:
    first, second, third = FIVE_STOPS[1], FIVE_STOPS[2], FIVE_STOPS[3]
    with OtherMonitor(pure=True) as pure:
        assert not pure.compiled
        pure.ask(do="boot")
        for count, source, destination in ((first, pure, other), (second, other, pure), (third, pure, other)):
            assert source.ask(do="advance", to=count)["digest"] == reference().digest[count]
            source.ask(do="send", to=destination.expect())
            assert destination.hear()["digest"] == reference().digest[count]
        assert other.ask(do="advance", to=LAST)["digest"] == reference().digest[LAST]


def test_a_snapshot_can_be_returned_to_again_and_again() -> None:
    with boot() as vm:
        snapshot = advance(vm, DISTURBED[3]).snapshot()
        for _ in range(3):
            reference().check(advance(vm, DISTURBED[5]))
            vm.load_snapshot(snapshot)
            reference().check(vm)


def test_looking_at_a_guest_leaves_no_trace() -> None:
    """Registers, memory, translations, disassembly and screens are for reading only."""
    chosen = random.Random(5)

    def run(vm: VirtualMachine, count: int) -> None:
        while vm.instructions < count:
            straight(vm, min(count, vm.instructions + chosen.randrange(1, 300_000)))
            registers = vm.registers()
            vm.real_registers()
            vm.disassemble(registers["eip"], 5)
            for gva in (registers["eip"], registers["esp"], 0, 0xFFFFF000, chosen.getrandbits(32)):
                vm.translate(gva)
            vm.screen()
            vm.exit_counts()
            vm.capture()

    with boot() as vm:
        assert set(TYPED) & set(range(LAST))
        reference().check(advance(vm, LAST, run))


def approach(
    vm: VirtualMachine, last: int, special: Callable[[VirtualMachine, dict[str, int]], bool]
) -> None:
    """Go on to within 100 instructions of something special, looking at every 100th only."""
    while vm.instructions < last:
        here, before = vm.snapshot(), vm.registers()
        if special(advance(vm, vm.instructions + 100), before):
            vm.load_snapshot(here)
            return


@pytest.mark.parametrize(
    ("window", "special"),
    [
        ((260_000, 261_500), lambda vm, before: vm.vcpu.halted),
        ((350_000, 450_000), lambda vm, before: vm.vcpu.cr2 != before["cr2"]),
        ((2_550_000, 2_700_000), lambda vm, before: vm.vcpu.cr2 != before["cr2"]),
        ((2_600_000, 2_700_000), lambda vm, before: vm.registers()["cpl"] != before["cpl"]),
    ],
    ids=["asleep", "in a page fault", "in a fault of ring 3", "between rings"],
)
def test_moments_at_which_the_cpu_holds_what_is_nowhere_else_are_no_exception(
    window: tuple[int, int], special: Callable[[VirtualMachine, dict[str, int]], bool], tmp_path: Path
) -> None:
    """A halt, or an exception whose CR2 has not been read, lasts an instruction: random moments miss it."""
    found = []
    with boot() as vm:
        advance(vm, window[0])
        if window[1] - window[0] > 2_000:
            approach(vm, window[1], special)
        before, last = vm.registers(), min(window[1], vm.instructions + 1_500)
        while vm.instructions < last and len(found) < 3:
            advance(vm, vm.instructions + 1)
            if special(vm, before):
                found.append(vm.snapshot())
            before = vm.registers()
        assert found, "nothing special happens here any more: look for other counts"
        for snapshot in found:
            with VirtualMachine.create(vm.config) as other, boot() as twin:
                other.load_snapshot(snapshot)
                start = other.instructions
                for count in (start, start + 1, start + 2, start + 30, start + 20_000):
                    assert difference(advance(other, count), advance(twin, count)) == []


@pytest.mark.parametrize("code", [b"\xfb", b"\x8e\xd0", b"\x17"], ids=["STI", "MOV SS", "POP SS"])
def test_an_interrupt_shadow_moves_with_the_guest(code: bytes, tmp_path: Path) -> None:
    """Interrupts wait for one more instruction after these (SDM 3A, 6.8.1 and 6.8.3), wherever that runs."""
    image, address, flags = tmp_path / "image", 0x100000, 0x10000
    header = (0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF, address, address, 0, 0, address + 64)
    table = struct.pack("<3QHI2x", 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 23, address + 32)
    prologue = struct.pack("<BI", 0xBC, address + 0x1000)  # mov esp, ...
    prologue += b"\x0f\x01\x15" + struct.pack("<I", address + 56)  # lgdt [...]
    prologue += b"\x6a\x10\x58\x50"  # push 0x10; pop eax; push eax
    image.write_bytes(struct.pack("<8I", *header) + table + prologue + code + b"\x90\x90\xeb\xfd")
    with VirtualMachine.boot(image, memory=MEMORY) as vm, VirtualMachine.create(vm.config) as other:
        vm.run(until=6)
        assert vm.capture().cpu.interrupt_shadow
        other.load_snapshot(vm.snapshot())
        assert other.capture() == vm.capture()
        for machine in (vm, other):
            machine.run(instructions=1)
            assert not machine.capture().cpu.interrupt_shadow


@pytest.mark.soak
def test_everything_at_once_at_random_moments_leaves_no_trace(tmp_path: Path) -> None:
    """Moves, saves, dropped tables, stops and looks in any order, for HV_SOAK_SECONDS; a failure names its seed."""
    until = time.monotonic() + float(os.environ.get("HV_SOAK_SECONDS", "600"))
    with OtherMonitor() as other, OtherMonitor(pure=True) as pure:
        while time.monotonic() < until:
            seed = random.SystemRandom().getrandbits(32)
            chosen = random.Random(seed)
            counts = moments(seed, chosen.randrange(2, 12))
            twin = Reference([*counts, LAST])
            vm = boot()
            for count in counts:
                try:
                    twin.check(advance(vm, count, functools.partial(in_pieces, chosen)))
                    vm = away_and_back(vm, chosen.choice([None, "hop", "file", other, pure]), tmp_path)
                    twin.check(vm)
                except Exception as error:
                    raise AssertionError(f"seed {seed}, moment {count:,}") from error
            with vm:
                twin.check(advance(vm, LAST))


def in_pieces(chosen: random.Random, vm: VirtualMachine, count: int) -> None:
    """Run a leg, dropping the shadow tables and being asked to stop on the way."""
    for _ in range(chosen.randrange(4)):
        if vm.instructions < count:
            straight(vm, chosen.randint(vm.instructions, count))
        match chosen.randrange(3):
            case 0:
                vm.paging.drop()
            case 1:
                vm.request_stop()
                assert vm.run(until=vm.instructions + 1).reason == "stop"
    straight(vm, count)


def away_and_back(vm: VirtualMachine, way: OtherMonitor | str | None, directory: Path) -> VirtualMachine:
    """Take a guest out of its machine, and into another."""
    if way is None:
        return vm
    with vm, Listener("tcp::0") as listener:
        if way == "hop":
            return hop(vm, listener)
        if isinstance(way, OtherMonitor):
            send(vm, way.expect())
            way.hear()
            way.tell(do="send", to=str(listener.address))
            arrived = listener.receive(VirtualMachine.create)
            way.hear()
            return arrived
        files.save(vm, directory / "guest")
    return machines.load(directory / "guest")
