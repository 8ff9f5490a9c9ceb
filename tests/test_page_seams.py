"""Code that runs on into the next page: that page is neither touched nor missed before an instruction needs it.

The CPU translates blocks as a whole, over the end of a page. What a guest could see of that is the Accessed bit of the
next page, too early, or a page fault there that is told of an instruction long before.
"""

from __future__ import annotations

import struct

import pytest
from guests_kit import CODE, DIRECTORY, ENOUGH, HANDLERS, PRELUDE, TABLE, load, machine, put

from hypervisor.ext.cpu import EXIT_BASE
from hypervisor.machine import VirtualMachine

NEXT = 0x400000
"""A page with nothing to do with others; the code runs into it from the one before."""
BEFORE = NEXT - 0x1000
FRAMES = 0x20000, 0x21000
UPPER = 0x6000
ACCESSED = 0x20
VMEXIT_DB = EXIT_BASE + 0x41
"""The end of a single step."""
RUN = 24
"""Instructions before the end of the page."""
pytestmark = pytest.mark.parametrize("technique", ["trap", "patch", "guest"])

PAGING = load(DIRECTORY) + b"\x0f\x22\xd8" + load(0x80000011) + b"\x0f\x22\xc0"
INC, ADD, HALT = b"\x40", b"\x05\x01\x00\x00\x00", b"\xf4"


def guest(before: bytes, after: bytes, *, present: bool, technique: str) -> VirtualMachine:
    """Jumps to ``before``, which ends with the page, and goes on to ``after``, which is in the next one."""
    start = NEXT - len(before)
    way = start - (CODE + PRELUDE + len(PAGING) + 5)
    vm = machine(PAGING + b"\xe9" + way.to_bytes(4, "little"), technique=technique)
    put(vm, DIRECTORY, (TABLE | 3).to_bytes(4, "little") + (UPPER | 3).to_bytes(4, "little"))
    put(vm, TABLE, b"".join((n << 12 | 3).to_bytes(4, "little") for n in range(1024)))
    put(vm, TABLE + 4 * 1023, (FRAMES[0] | 3).to_bytes(4, "little"))
    put(vm, UPPER, (FRAMES[1] | (3 if present else 2)).to_bytes(4, "little"))
    put(vm, FRAMES[0] + 0x1000 - len(before), before)
    put(vm, FRAMES[1], after)
    return vm


def accessed(vm: VirtualMachine) -> bool:
    return vm.ram[UPPER] & ACCESSED != 0


OVER = pytest.mark.parametrize("over", [0, 1, 4])
"""So many bytes of the last instruction lie behind the end of the page."""


def running_on(over: int, technique: str, *, present: bool = True) -> VirtualMachine:
    code = INC * RUN + ADD
    cut = len(code) - over
    return guest(code[:cut], code[cut:] + HALT, present=present, technique=technique)


@OVER
def test_the_next_page_is_accessed_when_an_instruction_reaches_it(over: int, technique: str) -> None:
    with running_on(over, technique) as vm:
        seen = {}
        while vm.run(instructions=1).reason == "limit":
            seen[vm.registers()["eip"]] = accessed(vm)
        assert accessed(vm)
    ends = [eip for eip in seen if eip >= BEFORE]
    assert len(ends) == RUN + 3  # before the first of them, and after each
    assert {eip: seen[eip] for eip in ends} == {eip: eip > NEXT for eip in ends}


@OVER
def test_it_is_the_same_wherever_the_guest_is_stopped(over: int, technique: str) -> None:
    with running_on(over, technique) as stepped:
        while stepped.run(instructions=1).reason == "limit":
            with running_on(over, technique) as straight:
                straight.run(until=stepped.instructions)
                assert straight.digest() == stepped.digest(), hex(stepped.registers()["eip"])


@OVER
def test_a_page_that_is_not_there_is_missed_by_the_instruction_that_needs_it(
    over: int, technique: str
) -> None:
    with running_on(over, technique, present=False) as vm:
        assert vm.run(instructions=ENOUGH).reason == "halted"
        registers = vm.registers()
        error, eip = struct.unpack("<II", vm.read("gva", registers["esp"], 8))
    assert registers["eip"] == HANDLERS + 4 * 14 + 1
    assert registers["cr2"] == NEXT
    assert (error, eip) == (0, NEXT if over == 0 else NEXT + over - len(ADD))
    assert registers["eax"] - 0x80000011 == (RUN + 1 if over == 0 else RUN)


def test_what_comes_before_it_is_the_first_to_fault(technique: str) -> None:
    """The last instruction before the end of the page divides by zero; the page behind is not there."""
    code = INC * RUN + b"\x31\xc9\xf7\xf1"  # xor ecx,ecx; div ecx
    with guest(code, HALT, present=False, technique=technique) as vm:
        assert vm.run(instructions=ENOUGH).reason == "halted"
        registers = vm.registers()
        assert registers["eip"] == HANDLERS + 1
        assert registers["cr2"] == 0
        assert not accessed(vm)


def test_a_handler_that_comes_on_the_way_does_not_run_step_by_step(technique: str) -> None:
    """An instruction before the end of the page divides by zero, and the handler takes a million rounds."""
    code = INC * RUN + b"\x31\xc9\xf7\xf1" + INC * RUN + ADD  # xor ecx,ecx; div ecx
    with guest(code, HALT, present=True, technique=technique) as vm:
        # mov ecx,0x100000; dec ecx; jnz; add dword [esp],2; iret
        put(vm, HANDLERS, bytes.fromhex("b9 00001000 49 75fd 83042402 cf"))
        assert vm.run().reason == "halted"
        assert vm.instructions > 2 << 20
        assert accessed(vm)
        assert 0 < vm.cpu.exit_counts()[VMEXIT_DB] < 4 * RUN
