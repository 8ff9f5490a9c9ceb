"""What RAM held at one moment is kept while the guest runs on, and the guest cannot tell."""

from __future__ import annotations

import random

import pytest
from live_move import Runner
from scripted_guest import difference
from tern_guest import build

from hypervisor.errors import UsageError
from hypervisor.machine import VirtualMachine
from hypervisor.paging.copy_on_write import CopyOnWrite

MEMORY = 16 << 20
FRAMES = MEMORY >> 12
ALL = b"\1" * FRAMES
DIRTY = 'quiet run="dirty 25600 2000"'
SELFTEST = 'quiet run="selftest; poweroff"'


def boot(command_line: str, form: str) -> VirtualMachine:
    return VirtualMachine.boot(build(), memory=MEMORY, append=command_line, paging=form)


def begin(vm: VirtualMachine, frames: bytes = ALL) -> CopyOnWrite:
    return CopyOnWrite(vm.memory, vm.paging, frames)


@pytest.mark.parametrize("form", ["traced", "lazy"])
@pytest.mark.parametrize("work", [DIRTY, SELFTEST], ids=["dirty", "selftest"])
def test_the_view_is_what_ram_held_and_the_guest_ends_like_its_twin(work: str, form: str) -> None:
    chosen = random.Random(form)
    kept = 0
    with boot(work, form) as vm, boot(work, form) as twin:
        for start in sorted(chosen.randrange(1_000_000, 40_000_000) for _ in range(8)):
            vm.run(until=max(start, vm.instructions))
            before = bytes(vm.ram)
            copy = begin(vm)
            vm.run(instructions=chosen.randrange(1, 1_000_000))
            kept += FRAMES - sum(map(vm.memory.protected, range(FRAMES)))
            copy.read(0, FRAMES)
            assert copy.view == before
            copy.end()
        twin.run(until=vm.instructions)
        assert not difference(vm, twin)
    assert kept > 50


def test_frames_are_copied_by_two_threads_at_once_and_none_is_torn() -> None:
    """The guest copies what it is about to store to, the other thread what is next; both want some."""
    with boot(DIRTY, "traced") as vm:
        vm.run(until=3_000_000)
        for _ in range(5):
            before = bytes(vm.ram)
            copy = begin(vm)
            with Runner(vm, vm.instructions + 2_000_000):
                for first in range(0, FRAMES, 16):
                    copy.read(first, first + 16)
            assert vm.instructions % 1_000_000 == 0
            assert copy.view == before
            copy.end()


def test_only_the_frames_that_were_asked_for_are_kept() -> None:
    with boot(DIRTY, "traced") as vm:
        vm.run(until=3_000_000)
        before = bytes(vm.ram)
        copy = begin(vm, b"\1\0" * (FRAMES // 2))
        vm.run(instructions=1_000_000)
        copy.read(0, FRAMES)
        for frame in range(FRAMES):
            held = copy.view[frame << 12 : (frame + 1) << 12]
            assert held == (bytes(4096) if frame % 2 else before[frame << 12 : (frame + 1) << 12])
        copy.forget(0, 2)
        assert copy.view[:8192] == bytes(8192)
        copy.end()


def test_what_the_monitor_stores_is_looked_at_too() -> None:
    with boot("quiet", "traced") as vm:
        vm.run(until=3_000_000)
        before = vm.snapshot()
        copy = begin(vm)
        vm.paging.about_to_write(0x5000, 4)
        vm.ram[0x5000:0x5004] = b"none"
        vm.load_snapshot(before)
        copy.read(0, FRAMES)
        assert copy.view == before.ram
        copy.end()


def test_one_at_a_time() -> None:
    with boot("quiet", "traced") as vm:
        copy = begin(vm)
        with pytest.raises(UsageError, match="protected already"):
            begin(vm)
        copy.end()
        begin(vm).end()


def test_two_keep_a_dirty_log_of_the_same_guest_each_in_its_own_pace() -> None:
    with boot(DIRTY, "traced") as vm:
        vm.run(until=3_000_000)
        often, seldom = vm.dirty, vm.dirty.another()
        often.start()
        seldom.start()
        seen = bytearray(FRAMES)
        for _ in range(4):
            vm.run(instructions=100_000)
            written = often.harvest()
            assert any(written)
            seen = bytearray(map(max, seen, written))
        whole = seldom.harvest()
        assert [frame for frame in range(FRAMES) if whole[frame]] == [f for f in range(FRAMES) if seen[f]]
        assert not any(often.harvest())
        often.stop()
        assert not often.active
        assert seldom.active
        with pytest.raises(ValueError, match="not started"):
            often.harvest()
        vm.run(instructions=100_000)
        assert any(seldom.harvest())
