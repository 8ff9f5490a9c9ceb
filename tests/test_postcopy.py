"""A guest that runs before its pages are there ends in the state of its twin that never moved."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from live_move import PATIENT, Reluctant, Runner
from working_guests import DIRTY, MEANWHILE, SELFTEST, Work, boot, check, empty_disk

from hypervisor.machine import VirtualMachine
from hypervisor.migration import Listener, Report, send
from hypervisor.migration.postcopy import Mode
from hypervisor.migration.prepaging import Ascending, Bubbling, PrePaging

MOVING: list[Mode] = ["postcopy", "hybrid"]


ORDERS: list[Callable[[], PrePaging]] = [Bubbling, Ascending, Reluctant]


class Moved(NamedTuple):
    vm: VirtualMachine
    sent: Report
    received: Report


def move(vm: VirtualMachine, disk: Path, length: int, mode: Mode, order: Callable[[], PrePaging]) -> Moved:
    """Move a running guest; there it runs on at once, ``length`` instructions further."""
    arrived: list[VirtualMachine] = []
    received = Report()

    def receive() -> None:
        there = listener.receive(lambda config: VirtualMachine.create(config, [disk]), report=received)
        arrived.append(there)
        assert there.run(instructions=length).reason == "limit"

    with Listener("tcp::0", timeouts=PATIENT) as listener:
        receiver = threading.Thread(target=receive)
        receiver.start()
        while not listener.waiting:
            time.sleep(0.0001)
        with Runner(vm, vm.instructions + MEANWHILE) as runner:
            sent = send(vm, listener.address, mode=mode, prepaging=order, timeouts=PATIENT)
        receiver.join()
        while received.status == "postcopy-active":  # the pager's last word comes after the last page
            time.sleep(0.0001)
    assert runner.stop is not None
    assert runner.stop.reason in ("moved", "limit")
    assert not vm.owned
    assert arrived[0].absent.count == 0
    return Moved(arrived[0], sent, received)


def journey(work: Work, folder: Path, moves: int, seed: int, modes: list[Mode] = MOVING) -> int:
    """Move a guest so often, from random instructions on; returns for how many pages it had to wait in all."""
    chosen = random.Random(seed)
    disk = empty_disk(folder)
    requests = 0
    vm = boot(work, disk)
    told = b""
    with boot(work, disk) as twin:
        for start in sorted(chosen.randrange(work.start, work.end - 3_000_000) for _ in range(moves)):
            assert vm.run(until=max(start, vm.instructions)).reason == "limit"
            mode, order = chosen.choice(modes), chosen.choice(ORDERS)
            moved = move(vm, disk, chosen.choice([1, 1_000, 300_000]), mode, order)
            told += vm.console.output
            vm.close()
            vm = moved.vm
            requests += moved.received.ram.postcopy_requests
            assert moved.sent.status == moved.received.status == "completed"
            assert moved.sent.ram.postcopy_requests == moved.received.ram.postcopy_requests
            if mode == "postcopy":  # in hybrid mode the guest may not have written to anything since
                assert moved.sent.ram.postcopy_bytes > 0
            check(vm, twin)
        with vm:
            assert vm.epoch == moves
            vm.run(until=max(work.end, vm.instructions))
            check(vm, twin)
            assert told + vm.console.output == twin.console.output
    return requests


@pytest.mark.parametrize(("work", "moves"), [(SELFTEST, 10), (DIRTY, 6)], ids=["selftest", "dirty"])
def test_a_guest_whose_pages_follow_it_cannot_tell(work: Work, moves: int, tmp_path: Path) -> None:
    assert journey(work, tmp_path, moves, seed=3) > 5


@pytest.mark.soak
@pytest.mark.parametrize("mode", MOVING)
@pytest.mark.parametrize("work", [SELFTEST, DIRTY], ids=["selftest", "dirty"])
def test_a_hundred_moves_ahead_of_the_pages_leave_no_trace(work: Work, mode: Mode, tmp_path: Path) -> None:
    requests = 0
    for life in range(10):
        folder = tmp_path / str(life)
        folder.mkdir()
        requests += journey(work, folder, 10, 40 + life, [mode])
    assert requests > (50 if mode == "postcopy" else 0)


def test_a_guest_waits_longest_where_its_pages_come_in_the_worst_order(tmp_path: Path) -> None:
    """What pre-paging is for; and what the reports say of it."""
    disk = empty_disk(tmp_path)
    waits = {}
    for order in (Bubbling, Reluctant):
        vm = boot(SELFTEST, disk)
        vm.run(until=20_000_000)
        moved = move(vm, disk, 1_000_000, "postcopy", order)
        waits[order] = moved.received.ram.postcopy_requests
        assert moved.received.postcopy_blocktime <= moved.received.total_time
        # (The report may be closed before the last of those who waited has noted how long.)
        assert (moved.received.postcopy_blocktime > 0) <= (waits[order] > 0)
        assert moved.sent.phases["postcopy"] > 0
        assert moved.sent.downtime < moved.sent.total_time
        vm.close()
        moved.vm.close()
    assert moved.received.postcopy_blocktime > 0
    assert waits[Reluctant] > waits[Bubbling]


def push_all(order: PrePaging, owed: bytearray, asked: dict[int, int]) -> list[int]:
    """The pages in the order in which they go; ``asked``: after so many stretches, the guest asks for a page."""
    sent: list[int] = []
    turns = 0
    while any(owed):
        if turns in asked:
            order.asked(asked[turns])
            sent += [asked[turns]] * owed[asked[turns]]
            owed[asked[turns]] = 0
        if not any(owed):
            break
        stretch = order.push(owed)
        pages = [page for page in range(*stretch) if page < len(owed) and owed[page]]
        assert pages, "a stretch in which nothing is owed"
        for page in pages:
            owed[page] = 0
        sent += pages
        turns += 1
    return sent


@pytest.mark.parametrize("order", [Bubbling, Ascending])
@pytest.mark.parametrize("seed", range(20))
def test_every_page_is_pushed_once_whatever_is_asked_for(order: Callable[[], PrePaging], seed: int) -> None:
    dice = random.Random(seed)
    pages = dice.choice([1, 5, 700])
    owed = bytearray(dice.choices([0, 1], [seed % 4, 3], k=pages))
    expected = [page for page in range(pages) if owed[page]]
    asked = {dice.randrange(30): dice.randrange(pages) for _ in range(dice.randrange(8))}
    assert sorted(push_all(order(), owed, asked)) == expected


def test_bubbles_grow_around_the_pages_that_were_asked_for() -> None:
    sent = push_all(Bubbling(), bytearray(b"\1" * 4096), {2: 1000, 4: 3000})
    soon = set(sent[: len(sent) // 4])
    assert {*range(900, 1100), *range(2900, 3100)} <= soon
    assert 2000 not in soon
