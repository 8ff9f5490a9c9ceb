"""A session runs its guest in the background; a stop is never lost and never left over."""

from __future__ import annotations

import threading

import pytest
from fake_machine import FakeMachine, FakeStop

from hypervisor.errors import HostError, UsageError
from hypervisor.repl.session import Session, describe, status_of


@pytest.fixture
def vm():
    return FakeMachine()


@pytest.fixture
def session(vm):
    session = Session(vm)
    yield session
    session.close()


def test_a_stop_right_after_the_start_is_not_lost(vm, session):
    for _ in range(50):
        session.start()
        assert session.stop().reason == "stop"
        assert not session.running


def test_a_stop_that_the_machine_drops_is_repeated(vm, session):
    """Even a machine that forgets the first requests is stopped."""
    real, dropped = vm.request_stop, []
    vm.request_stop = lambda: dropped.append(0) if len(dropped) < 2 else real()
    session.start()
    assert session.stop().reason == "stop"
    assert len(dropped) == 2


def test_a_stop_left_over_from_before_does_not_end_the_next_run(vm, session):
    vm.request_stop()
    session.start(until=1000)
    assert session.wait().reason == "limit"
    assert vm.instructions == 1000


def test_stops_from_many_threads_end_one_run(vm, session):
    session.start()
    threads = [threading.Thread(target=session.stop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not session.running
    session.start(until=vm.instructions + 500)
    assert session.wait().reason == "limit"


def test_stopping_a_guest_that_stands_still_is_no_error(session):
    assert session.stop() is None


def test_a_breakpoint_stops_before_the_target_and_the_next_run_passes_it(vm, session):
    session.breakpoints = {300, 700}
    for expected in (300, 700, 1000):
        session.start(until=1000)
        session.wait()
        assert vm.instructions == expected


def test_a_target_in_the_past_is_refused(vm, session):
    vm.instructions = 100
    with pytest.raises(UsageError, match="instruction 99 is past"):
        session.start(until=99)


def test_a_guest_that_has_ended_is_not_run_again(vm, session):
    vm.script = {5: FakeStop("exit", "7", 7)}
    session.start()
    session.wait()
    assert session.finished
    with pytest.raises(UsageError, match="has ended"):
        session.start()


def test_a_running_guest_is_not_touched(session):
    session.start()
    with pytest.raises(UsageError, match="running"):
        _ = session.stopped_vm
    with pytest.raises(UsageError, match="running"):
        session.replace(None)


def test_what_kills_the_running_thread_is_raised_where_somebody_waits(vm, session):
    def run(**_):
        raise HostError("no memory")

    vm.run = run
    session.start()
    with pytest.raises(HostError, match="no memory"):
        session.wait()
    assert session.wait() is None  # told once


def test_a_guest_that_went_elsewhere_is_told_by_where_it_is(vm, session):
    session.replace(None, "the guest is at tcp:127.0.0.1:1 now")
    assert vm.closed
    with pytest.raises(UsageError, match="is at tcp"):
        _ = session.vm


def test_replacing_a_guest_forgets_what_belonged_to_the_old_one(vm, session):
    session.breakpoints.add(5)
    session.snapshots["a"] = vm.snapshot()
    session.replace(FakeMachine())
    assert (vm.closed, session.breakpoints, session.snapshots, session.last_stop) == (True, set(), {}, None)


def test_closing_a_session_stops_its_guest(vm):
    session = Session(vm)
    session.start()
    session.close()
    assert not session.running
    assert vm.closed


@pytest.mark.parametrize(
    ("stop", "status", "words"),
    [
        (None, 0, "not run yet"),
        (FakeStop("exit", "7", 7), 7, "the guest ended with status 7"),
        (FakeStop("exit", "511", 511), 255, "the guest ended with status 511"),
        (FakeStop("stop", "asked to stop"), 0, "stopped on request"),
        (FakeStop("halted", "halted with interrupts off"), 0, "halted with interrupts off"),
        (FakeStop("triple-fault", "triple fault at 0x10"), 1, "triple fault at 0x10"),
        (FakeStop("error", "not supported"), 1, "not supported"),
        (FakeStop("reset"), 0, "reset"),
    ],
)
def test_a_stop_has_a_status_and_words(stop, status, words):
    assert status_of(stop) == status
    assert describe(stop) == words
