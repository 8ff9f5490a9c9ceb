"""Other threads get at a machine whose guest runs, and the guest does not notice."""

from __future__ import annotations

import threading
import time

import pytest
from live_move import Runner
from scripted_guest import Reference, boot, difference

from hypervisor.errors import HypervisorError, UsageError
from hypervisor.machine import VirtualMachine

MIDDLE, END = 250_000, 2_400_000


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference([MIDDLE, END])


@pytest.fixture
def vm():
    with boot() as vm:
        yield vm


def test_a_visitor_of_a_guest_that_stands_still_is_served_at_once(vm: VirtualMachine) -> None:
    assert vm.visit(lambda: vm.instructions) == 0
    with pytest.raises(ZeroDivisionError):
        vm.visit(lambda: 1 // 0)


def test_visits_to_a_guest_that_runs_leave_no_trace(vm: VirtualMachine, reference: Reference) -> None:
    me = threading.get_ident()
    strangers, moments = set(), []
    vm.console.send(b"")
    with Runner(vm, MIDDLE):
        while vm.running:
            vm.visit(lambda: moments.append(vm.instructions))
            vm.visit(lambda: strangers.add(threading.get_ident()))
            vm.visit(vm.capture)
    assert strangers - {me}
    assert moments == sorted(moments)
    assert len(set(moments)) > 3
    reference.check(vm)


def test_an_error_of_a_visitor_is_the_visitors(vm: VirtualMachine, reference: Reference) -> None:
    with Runner(vm, MIDDLE) as runner, pytest.raises(ZeroDivisionError):
        vm.visit(lambda: 1 // 0)
    assert runner.stop is not None
    assert runner.stop.reason == "limit"
    reference.check(vm)


def test_a_guest_that_is_held_stands_still_and_goes_on_when_it_is_released(
    vm: VirtualMachine, reference: Reference
) -> None:
    with Runner(vm, MIDDLE):
        for _ in range(20):
            vm.hold()
            before = vm.digest()
            time.sleep(0.001)
            assert vm.digest() == before
            vm.release()
    reference.check(vm)


def test_two_who_hold_it_must_both_let_go(vm: VirtualMachine) -> None:
    vm.hold()
    vm.hold()
    with Runner(vm, MIDDLE):
        assert vm.running
        vm.release()
        time.sleep(0.02)
        assert vm.visit(lambda: vm.instructions) == 0
        vm.release()
    assert vm.instructions == MIDDLE


def test_a_guest_that_was_given_away_while_it_was_held_does_not_go_on(vm: VirtualMachine) -> None:
    with Runner(vm) as runner:
        vm.hold()
        at = vm.instructions
        vm.owned = False
        vm.release()
    assert runner.stop is not None
    assert runner.stop.reason == "moved"
    assert vm.instructions == at
    with pytest.raises(HypervisorError, match="does not own"):
        vm.run()


def test_a_sleeping_guest_is_reached_too() -> None:
    with boot() as vm:
        vm.pace = True
        with Runner(vm) as runner:
            deadline = time.monotonic() + 60
            while not vm.visit(lambda: vm.vcpu.halted):
                assert time.monotonic() < deadline
            vm.hold()
            vm.release()
            vm.request_stop()
        assert runner.stop is not None
        assert runner.stop.reason == "stop"


def test_a_machine_is_run_by_one_thread_only(vm: VirtualMachine) -> None:
    with Runner(vm):
        with pytest.raises(UsageError, match="running already"):
            vm.run()
        with pytest.raises(UsageError, match="must be stopped"):
            vm.capture()
        vm.request_stop()


def test_time_stands_still_for_a_guest_that_is_held_under_the_wall_clock() -> None:
    with boot(clock="wall") as vm:
        with Runner(vm):
            vm.hold()
            before = vm.clock.update()
            time.sleep(0.05)
            assert vm.clock.update() == before
            vm.release()
            vm.request_stop()
        assert vm.clock.now - before < 40_000_000


@pytest.mark.parametrize("paging", ["lazy", "traced"])
def test_a_guest_that_is_stopped_anywhere_is_what_its_twin_is_there(paging: str) -> None:
    """Not a step further: an instruction whose page fault was hidden has set Accessed bits already."""
    work = {"memory": 8 << 20, "append": 'quiet run="dirty 10000 200 & sum 100000"'}
    with (
        VirtualMachine.boot("tern", paging=paging, **work) as vm,
        VirtualMachine.boot("tern", **work) as twin,
    ):
        vm.run(until=1_000_000)
        with Runner(vm) as runner:
            for _ in range(250):
                vm.hold()
                assert twin.run(until=vm.instructions).reason == "limit"
                same = vm.digest() == twin.digest()
                difference_ = [] if same else difference(vm, twin)
                vm.release()
                if not same:
                    break
                time.sleep(0.0005)
            vm.request_stop()
        assert runner.stop is not None
        assert not difference_, f"at {vm.instructions:,}"
