"""The forms of paging: equal where the guest flushes as it must; and the traced one exact for all.

The guests are those of rewriting_guest.py.
"""

from __future__ import annotations

import random
import struct

import pytest
from rewriting_guest import LOW, MEMORY, Program

from hypervisor.machine import VirtualMachine
from hypervisor.paging.forms import FORMS, NESTED
from hypervisor.state.model import MachineConfig


def technique_for(form: str) -> str:
    return "guest" if form == NESTED else "trap"


def run(program: Program, form: str, disturbance: int | None = None) -> tuple[str, str]:
    """How it ends: why, and the digest. ``disturbance`` seeds stops, and losses of all tables."""
    with VirtualMachine(MachineConfig(MEMORY, technique_for(form)), paging=form) as vm:
        program.place(vm)
        if disturbance is not None:
            dice = random.Random(disturbance)
            while vm.run(instructions=dice.randrange(1, 9)).reason == "limit":
                if dice.random() < 0.5:
                    vm.paging.drop()
                if vm.instructions > 20_000:
                    break
        stop = vm.run(until=20_000)
        return stop.reason, vm.digest()


@pytest.mark.parametrize("seed", range(40))
def test_a_guest_that_flushes_cannot_tell_the_forms_apart(seed):
    program = Program(seed, flushes=True)
    assert run(program, "traced") == run(program, "lazy") == run(program, "lazy", seed)
    assert run(program, "traced") == run(program, NESTED) == run(program, NESTED, seed)


@pytest.mark.parametrize("seed", range(40))
def test_a_guest_that_never_flushes_cannot_tell_whether_traced_shadows_were_lost(seed):
    program = Program(seed, flushes=False)
    assert run(program, "traced") == run(program, "traced", seed)


@pytest.mark.fuzz
def test_many_guests_that_rewrite_their_tables():
    for seed in range(1000, 4000):
        flushes = bool(seed & 1)
        program = Program(seed, flushes=flushes)
        calm = run(program, "traced")
        assert run(program, "traced", seed) == calm, seed
        assert not flushes or run(program, "lazy", seed) == calm, seed
        assert not flushes or run(program, NESTED, seed) == calm, seed


def test_there_may_be_more_address_spaces_than_shadows_are_kept():
    with VirtualMachine(MachineConfig(MEMORY), paging="traced") as vm:
        program = Program(0, flushes=False)
        program.code = bytearray()
        spaces = range(0x200000, 0x200000 + 300 * 0x1000, 0x1000)
        for directory in (*spaces, *spaces):
            program.directory = directory
            program.load()
            program.code += b"\xff\x05" + struct.pack("<I", 0x100000)
        program.code += b"\xf4"
        program.directory = spaces[0]
        program.place(vm)
        for directory in spaces:
            vm.ram[directory : directory + 4] = struct.pack("<I", LOW | 3)
        assert vm.run(until=20_000).reason == "halted"
        assert vm.ram[0x100000:0x100002] == bytes((1 + 600 & 255, 1 + (1 + 600 >> 8)))
        assert vm.paging.statistics()["tables"] < 600


@pytest.mark.parametrize("form", FORMS)
def test_the_dirty_log_has_every_frame_that_changed_and_few_others(form):
    with VirtualMachine.boot("tern", paging=form, append="quiet", technique=technique_for(form)) as vm:
        vm.console.send(b"cat /bin/selftest | wc; dirty 1 64 &\nps\n")
        vm.dirty.start()
        assert not any(vm.dirty.harvest())
        for _ in range(40):
            before = bytes(vm.ram)
            vm.run(instructions=random.Random(vm.instructions).randrange(1, 400_000))
            dirty = vm.dirty.harvest()
            now = bytes(vm.ram)
            changed = [
                now[n << 12 : (n + 1) << 12] != before[n << 12 : (n + 1) << 12] for n in range(len(dirty))
            ]
            missed = [n for n, differs in enumerate(changed) if differs and not dirty[n]]
            assert not missed
            assert sum(map(bool, dirty)) <= 3 * sum(changed) + 64
        assert not any(vm.dirty.harvest())
