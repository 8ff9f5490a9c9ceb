"""A guest whose RAM is not all here yet cannot tell, and nothing of it is looked at before it has come."""

from __future__ import annotations

import functools
import random
import struct
import threading
import time

import pytest
from far_ram import FarRam
from guests_kit import (
    DIRECTORY,
    GDT,
    HANDLERS,
    IDT,
    KERNEL_STACK,
    POINTERS,
    TABLE,
    TSS,
    USER_CODE,
    USER_STACK,
    load,
    machine,
    put,
)
from live_move import Runner
from port_script import build_kernel
from rewriting_guest import MEMORY, Program
from scripted_guest import LAST, Reference, advance, boot, moments, straight

from hypervisor.errors import FramesLostError, HostError
from hypervisor.machine import VirtualMachine
from hypervisor.state.model import MachineConfig

TAKEN = moments(seed=11, number=12)


@functools.cache
def reference() -> Reference:
    return Reference([LAST])


@pytest.mark.parametrize("paging", ["traced", "lazy"])
def test_a_guest_whose_ram_is_taken_away_cannot_tell(paging: str) -> None:
    with boot(paging=paging) as vm:
        far = FarRam(vm)
        for count in TAKEN:
            advance(vm, count)
            far.take()
        advance(vm, LAST)
        assert len(far.wanted) > 20 * len(TAKEN)
        reference().check(vm)


@pytest.mark.parametrize("form", ["traced", "lazy"])
@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_guests_that_rewrite_their_tables_cannot_tell(seed: int, form: str) -> None:
    """Seeds of even numbers never flush: then only the traced form is exact."""
    program = Program(seed, flushes=form == "lazy")
    ends = []
    for disturbed in (False, True):
        with VirtualMachine(MachineConfig(MEMORY), paging=form) as vm:
            program.place(vm)
            far, dice = FarRam(vm), random.Random(seed)
            if disturbed:
                while (
                    vm.instructions < 20_000 and vm.run(instructions=dice.randrange(1, 60)).reason == "limit"
                ):
                    far.take()
            ends.append((vm.run(until=20_000).reason, vm.digest()))
    assert ends[0] == ends[1]


def test_string_io_and_sectors_wait_for_their_buffers(tmp_path) -> None:
    kernel = build_kernel(tmp_path, "string_io")
    image = tmp_path / "disk.img"
    image.write_bytes(random.Random(1).randbytes(100 * 512))
    ends = []
    for legs in (1_000_000, 97):
        with VirtualMachine.boot(kernel, memory=4 << 20, disks=[image]) as vm:
            far = FarRam(vm)
            while (stop := vm.run(instructions=legs)).reason == "limit":
                far.take()
            assert stop.reason == "exit"
            ends.append((stop.status, vm.instructions, vm.digest()))
    assert ends[0] == ends[1]


PAGED = load(DIRECTORY) + b"\x0f\x22\xd8\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0"
"""mov eax,DIRECTORY; mov cr3,eax; mov eax,cr0; or eax,1<<31; mov cr0,eax"""


@pytest.mark.parametrize(
    ("kernel", "user", "needed"),
    [
        (b"\xcd\x80", None, [IDT, HANDLERS, KERNEL_STACK - 4]),
        (b"\x66\xb8\x20\x00\x8e\xd8\x0f\x0b", None, [GDT, IDT]),
        (b"\xea" + struct.pack("<IH", HANDLERS, 8), None, [GDT]),
        (b"", b"\x50\xcd\x80", [USER_CODE, USER_STACK - 4, TSS, IDT, KERNEL_STACK - 4]),
        (PAGED + b"\xa1\x00\x70\x00\x00\xf4", None, [DIRECTORY, TABLE, 0x7000]),
        (PAGED + b"\x0f\x01\x15\x00\x0f\x00\x00\xf4", None, [DIRECTORY, TABLE, POINTERS]),
        (b"\xbf\xfe\x7f\x00\x00\x66\xba\x71\x00\xb9\x04\x00\x00\x00\xfc\xf3\x6c\xf4", None, [0x7000, 0x8000]),
        (b"\xbe\xfe\x7f\x00\x00\x66\xba\xf8\x03\xb9\x04\x00\x00\x00\xfc\xf3\x6e\xf4", None, [0x7000, 0x8000]),
    ],
    ids=["interrupt", "segment", "far jump", "ring change", "page walk", "operand", "ins", "outs"],
)
def test_what_the_monitor_needs_is_fetched_first(
    kernel: bytes, user: bytes | None, needed: list[int]
) -> None:
    """Descriptor tables, gates, stacks, page tables, buffers that straddle two pages."""
    ends = []
    for absent in (False, True):
        with machine(kernel, user) as vm:
            put(vm, DIRECTORY, struct.pack("<I", TABLE | 3))
            put(vm, TABLE, struct.pack("<64I", *(n << 12 | 3 for n in range(64))))
            far = FarRam(vm)
            if absent:
                far.take()
            assert vm.run(instructions=1000).reason == "halted"
            if absent:
                assert {address >> 12 for address in needed} <= set(far.wanted)
                assert len(far.wanted) < 16, "much more was fetched than was needed"
            ends.append((vm.instructions, bytes(vm.console.output), vm.digest()))
    assert ends[0] == ends[1]


def test_looking_at_a_machine_waits_too() -> None:
    with machine() as vm:
        far = FarRam(vm)
        before = vm.read("gpa", POINTERS, 14), vm.disassemble(vm.registers()["eip"], 3)
        far.take()
        assert (vm.read("gpa", POINTERS, 14), vm.disassemble(vm.registers()["eip"], 3)) == before
        assert vm.screen().strip() == ""
        assert len(far.wanted) == len(set(far.wanted)) < 8


def test_frames_that_are_here_keep_what_the_guest_has_stored() -> None:
    with machine() as vm:
        FarRam(vm).take()
        vm.memory.store32((16 << 20) + 0x7000, 0x1234)
        assert vm.absent.admit(6, 3, bytes(3 * 4096)) == 2
        assert vm.ram[0x7000:0x7004] == b"\x34\x12\0\0"
        assert vm.absent.admit(6, 3, bytes(3 * 4096)) == 0


def test_a_frame_that_arrives_is_not_dirty() -> None:
    with machine() as vm:
        vm.dirty.start()
        FarRam(vm).take()
        vm.absent.complete()
        assert not any(vm.dirty.harvest())


class Slow:
    """A source whose frames another thread brings a little later."""

    def __init__(self, vm: VirtualMachine) -> None:
        self._vm = vm
        self._contents = bytes(vm.ram)
        self.wanted: list[int] = []

    def want(self, frame: int) -> None:
        self.wanted.append(frame)
        page = self._contents[frame << 12 : (frame + 1) << 12]
        threading.Timer(0.002, self._vm.absent.admit, (frame, 1, page)).start()

    def finished(self) -> None:
        pass


def test_a_guest_waits_for_a_frame_that_another_thread_brings() -> None:
    with boot() as vm:
        advance(vm, 400_000)
        vm.paging.forget_code()
        slow = Slow(vm)
        vm.absent.begin(b"\1" * (len(vm.ram) >> 12), slow)
        straight(vm, 420_000)
        assert vm.absent.faults == len(slow.wanted) > 10
        assert vm.absent.waited >= 0.002 * vm.absent.faults
        with boot() as twin:
            assert vm.digest() == advance(twin, 420_000).digest()


class Silent:
    def want(self, frame: int) -> None:
        pass

    def finished(self) -> None:
        pass


class Broken:
    def want(self, frame: int) -> None:
        raise HostError("the file is gone")

    def finished(self) -> None:
        pass


@pytest.mark.parametrize("source", [Silent(), Broken()])
def test_a_frame_that_is_lost_ends_the_run_with_one_line(source: Silent | Broken) -> None:
    with boot() as vm:
        advance(vm, 400_000)
        vm.paging.forget_code()
        vm.absent.begin(b"\1" * (len(vm.ram) >> 12), source)
        if isinstance(source, Silent):
            threading.Timer(0.05, vm.absent.lose, (HostError("the file is gone"),)).start()
        for look in (lambda: vm.run(until=500_000), lambda: vm.ram, vm.digest):
            with pytest.raises(FramesLostError, match=r"frame 0x\w+ .* is lost: the file is gone$"):
                look()


def test_whoever_waits_for_a_guest_that_waits_gets_it_when_the_frame_has_come() -> None:
    with boot() as vm:
        advance(vm, 400_000)
        vm.paging.forget_code()
        slow = Slow(vm)
        vm.absent.begin(b"\1" * (len(vm.ram) >> 12), slow)
        with Runner(vm, 3_000_000):
            while not slow.wanted:
                time.sleep(0.0001)
            assert vm.visit(lambda: vm.absent.faults) > 0
            vm.hold()
            here = vm.instructions
            assert vm.capture().clock.instructions == here
            vm.release()
        assert vm.instructions == 3_000_000
