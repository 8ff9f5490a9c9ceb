"""The Python API: what `VirtualMachine` promises to programs, tests and students."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec
import pytest
from scripted_guest import MEMORY, advance, boot
from tern_guest import build

from hypervisor.errors import HypervisorError, StateError, UsageError
from hypervisor.machine import Snapshot, VirtualMachine
from hypervisor.state import files
from hypervisor.state.model import MachineConfig, encode

PROMPT = "tern$ "
BOOTED = 300_000


@pytest.fixture
def vm():
    with boot() as machine:
        yield machine


# ------------------------------------------------------------------------------------------ running


@pytest.mark.smoke
def test_a_guest_boots_to_its_prompt(vm: VirtualMachine) -> None:
    assert vm.run_until(PROMPT).reason == "text"
    assert vm.console.output.endswith(PROMPT.encode())


def test_run_stops_at_exactly_the_instruction_asked_for(vm: VirtualMachine) -> None:
    for until in (1, 2, 100, 65_432, 65_433, 200_001):
        assert vm.run(until=until).reason == "limit"
        assert vm.instructions == until
    vm.run(instructions=77)
    assert vm.instructions == 200_078
    vm.run(instructions=1_000_000, until=200_100)
    assert vm.instructions == 200_100


def test_a_limit_that_is_reached_already_runs_nothing(vm: VirtualMachine) -> None:
    vm.run(until=1000)
    digest = vm.digest()
    for limit in ({"until": 1000}, {"until": 5}, {"instructions": 0}):
        assert vm.run(**limit).reason == "limit"
    assert (vm.instructions, vm.digest()) == (1000, digest)


def test_run_until_finds_text_that_comes_in_pieces_and_only_what_is_new(vm: VirtualMachine) -> None:
    vm.run_until(PROMPT)
    assert vm.run_until(PROMPT, instructions=50_000).reason != "text"
    vm.console.send(b"echo one two three\n")
    assert vm.run_until(b"one two three\r\n").reason == "text"
    assert vm.run_until("no such text", instructions=300_000).reason == "limit"
    vm.console.send(b"poweroff 3\n")
    stop = vm.run_until("no such text")
    assert (stop.reason, stop.status) == ("exit", 7)


def test_text_that_the_guest_prints_as_it_ends_is_found(vm: VirtualMachine) -> None:
    vm.run_until(PROMPT)
    vm.console.send(b"echo the last words; poweroff\n")
    assert vm.run_until("the last words\r\n").reason == "text"


@pytest.mark.parametrize(("status", "code"), [(0, 1), (1, 3), (127, 255)])
def test_the_guest_ends_the_run_with_its_status(vm: VirtualMachine, status: int, code: int) -> None:
    vm.console.send(f"poweroff {status}\n".encode())
    stop = vm.run(instructions=5_000_000)
    assert (stop.reason, stop.status) == ("exit", code)


def test_what_is_typed_counts_from_the_instruction_where_the_guest_stands() -> None:
    """Typed while it is stopped, however often it is looked at before it goes on: the same state."""
    digests = []
    for look in (False, True):
        with boot() as vm:
            vm.run(until=BOOTED)
            vm.console.send(b"echo h")
            vm.console.send(b"ello\n")
            if look:
                vm.capture()
                vm.run(instructions=0)
            vm.run(until=BOOTED + 300_000)
            assert b"hello\r\n" in vm.console.output
            digests.append(vm.digest())
    assert digests[0] == digests[1]


# -------------------------------------------------------------------------------------- stop requests


def test_a_stop_request_before_the_run_stops_it_at_once(vm: VirtualMachine) -> None:
    vm.run(until=1000)
    vm.request_stop()
    assert vm.run(instructions=1_000_000).reason == "stop"
    assert vm.instructions == 1000
    assert vm.run(instructions=10).reason == "limit"


def test_a_stop_request_at_a_limit_is_kept_for_the_next_run(vm: VirtualMachine) -> None:
    vm.request_stop()
    assert vm.run(instructions=0).reason == "limit"
    assert vm.run(instructions=10).reason == "stop"


def test_requests_that_come_together_stop_once(vm: VirtualMachine) -> None:
    for _ in range(5):
        vm.request_stop()
    assert vm.run(instructions=10).reason == "stop"
    assert vm.run(instructions=10).reason == "limit"


@pytest.mark.parametrize("clock", ["exact", "wall"])
@pytest.mark.parametrize("typed", [b"", b"spin 99999999\n"], ids=["idle", "busy"])
def test_no_stop_request_is_lost_whenever_it_comes(clock: str, typed: bytes) -> None:
    """An idle guest under the exact clock races through its sleep; a busy one computes for ever."""
    with boot(clock=clock) as vm:
        vm.console.send(typed)
        for pause in (0, 0, 0, 0.0001, 0.001, 0.01, 0.05):
            asker = threading.Timer(pause, vm.request_stop)
            asker.start()
            stop = vm.run()
            asker.join()
            assert stop.reason == "stop"


def test_a_paced_guest_that_sleeps_wakes_for_a_stop_and_for_a_key(vm: VirtualMachine) -> None:
    vm.pace = True
    vm.run_until(PROMPT)
    threading.Timer(0.02, vm.request_stop).start()
    assert vm.run().reason == "stop"
    threading.Timer(0.02, lambda: vm.console.send(b"poweroff\n")).start()
    assert vm.run().reason == "exit"


# ------------------------------------------------------------------------------------------- clocks


def test_pacing_makes_sleep_take_time_and_changes_nothing_else() -> None:
    with boot() as paced, boot() as racing:
        took = []
        for vm, pace in ((paced, True), (racing, False)):
            vm.pace = pace
            vm.run(until=BOOTED)
            vm.console.send(b"sleep 300; echo 'a'wake\n")
            began = time.monotonic()
            assert vm.run_until("awake\r\n").reason == "text"
            took.append(time.monotonic() - began)
        assert took[0] > 0.25, "virtual time ran ahead of ours"
        assert paced.console.output == racing.console.output


def test_the_wall_clock_counts_nothing_and_says_so() -> None:
    with boot(clock="wall") as vm:
        for limit in ({"instructions": 10}, {"until": 10}):
            with pytest.raises(UsageError, match="counts no instructions"):
                vm.run(**limit)
        vm.console.send(b"sleep 30; poweroff 2\n")
        began = time.monotonic()
        assert vm.run().status == 5
        assert time.monotonic() - began > 0.03


def test_time_does_not_pass_for_a_stopped_guest_under_the_wall_clock() -> None:
    with boot(clock="wall") as vm:
        threading.Timer(0.1, vm.request_stop).start()
        vm.run()
        before = vm.capture()
        time.sleep(0.05)
        assert encode(vm.capture()) == encode(before)


# -------------------------------------------------------------------------------------------- state


def test_capturing_changes_nothing() -> None:
    with boot() as watched, boot() as twin:
        for count in (1, 5_000, 250_000, 800_000, 1_600_000):
            advance(watched, count)
            advance(twin, count)
            first = encode(watched.capture())
            assert encode(watched.capture()) == first
            assert watched.digest() == watched.digest()
            watched.snapshot()
        assert watched.state_digest() == twin.state_digest()


def test_saved_twice_gives_equal_bytes(vm: VirtualMachine, tmp_path: Path) -> None:
    advance(vm, 1_000_000)
    one, two = tmp_path / "one", tmp_path / "two"
    files.save(vm, one)
    files.save(vm, two)
    assert one.read_bytes() == two.read_bytes()


def test_the_digest_sees_every_bit_of_memory_and_cpu(vm: VirtualMachine) -> None:
    advance(vm, 1_000_000)
    seen = {vm.digest()}
    for address in (0, 0x9F123, 0x100000, 0x123456, MEMORY - 1):
        vm.ram[address] ^= 0x10
        seen.add(vm.digest())
        vm.ram[address] ^= 0x10
    assert len(seen) == 6
    vm.cpu.set_general(6, vm.cpu.general(6) ^ 1)
    seen.add(vm.digest())
    assert len(seen) == 7


def test_the_digest_does_not_depend_on_which_machine_it_is() -> None:
    with boot() as one, boot() as two:
        assert one.identity != two.identity
        assert one.digest() == two.digest()


def test_a_snapshot_becomes_another_machine_too(vm: VirtualMachine) -> None:
    snapshot = advance(vm, 1_000_000).snapshot()
    advance(vm, 1_200_000)
    with VirtualMachine.create(vm.config) as other:
        other.load_snapshot(snapshot)
        assert other.identity == vm.identity
        advance(other, 1_200_000)
        assert other.state_digest() == vm.state_digest()


def test_state_that_does_not_fit_is_refused_and_changes_nothing(vm: VirtualMachine) -> None:
    snapshot = advance(vm, 400_000).snapshot()
    with VirtualMachine.create(MachineConfig(MEMORY + 4096)) as larger:
        before = larger.digest()
        with pytest.raises(StateError, match="bytes of RAM"):
            larger.load_snapshot(snapshot)
        with pytest.raises(StateError, match=r"config\.memory"):
            larger.restore(snapshot.state)
        assert larger.digest() == before
    damaged = dict(snapshot.state.devices)
    damaged["vga"] = msgspec.structs.replace(damaged["vga"], version=99)
    with boot() as other:
        before = advance(other, 200_000).digest()
        for change, words in (
            ({"config": msgspec.structs.replace(vm.config, clock="wall")}, r"config\.clock"),
            ({"cpu": msgspec.structs.replace(snapshot.state.cpu, eflags=0)}, r"cpu\.eflags"),
            ({"devices": damaged}, "vga"),
        ):
            with pytest.raises(StateError, match=words):
                other.restore(msgspec.structs.replace(snapshot.state, **change))
            assert other.digest() == before
        cpu = msgspec.structs.replace(snapshot.state.cpu, eflags=0)
        odd = Snapshot(msgspec.structs.replace(snapshot.state, cpu=cpu), snapshot.ram)
        with pytest.raises(StateError, match=r"cpu\.eflags"):
            other.load_snapshot(odd)
        assert other.digest() == before


# --------------------------------------------------------------------------------------- life and use


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": (4 << 20) + 1}, "multiple of 4096"),
        ({"memory": 4 << 30}, "to 3 GiB"),
        ({"technique": "magic"}, "no technique 'magic'"),
        ({"clock": "sundial"}, "no clock 'sundial'"),
    ],
)
def test_a_machine_that_cannot_be_is_refused_in_one_line(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        VirtualMachine.boot(build(), **options)
    assert "\n" not in str(caught.value)


def test_a_running_machine_refuses_what_needs_it_stopped(vm: VirtualMachine) -> None:
    snapshot = vm.snapshot()
    vm.console.send(b"spin 99999999\n")
    runner = threading.Thread(target=vm.run)
    runner.start()
    while not vm.running:
        pass
    try:
        for use in (vm.run, vm.capture, vm.digest, vm.snapshot, lambda: vm.restore(snapshot.state)):
            with pytest.raises(UsageError):
                use()
    finally:
        vm.request_stop()
        runner.join()
    assert vm.run(instructions=10).reason == "limit"


def test_a_machine_that_is_not_owned_does_not_run(vm: VirtualMachine) -> None:
    vm.owned = False
    with pytest.raises(HypervisorError, match="may be running elsewhere"):
        vm.run(instructions=1)
    assert vm.instructions == 0


def test_closing_twice_is_fine_and_running_after_it_is_not(vm: VirtualMachine) -> None:
    vm.close()
    vm.close()
    with pytest.raises(UsageError, match="closed"):
        vm.run(instructions=1)


def test_a_stop_request_to_a_closed_machine_does_no_harm(vm: VirtualMachine) -> None:
    """Another thread may ask in the moment in which the machine is closed."""
    vm.close()
    vm.request_stop()
    vm.console.send(b"x")


def test_many_machines_come_and_go() -> None:
    for _ in range(60):
        with boot() as vm:
            vm.run(instructions=1000)


def test_two_machines_run_at_the_same_time_in_threads() -> None:
    digests: list[str] = []

    def run() -> None:
        with boot() as vm:
            digests.append(advance(vm, 1_500_000).digest())

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with boot() as alone:
        assert digests == [advance(alone, 1_500_000).digest()] * 3
