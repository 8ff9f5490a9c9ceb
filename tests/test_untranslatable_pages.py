"""Code that QEMU cannot translate, and code that shares a page with it (see ext/giving_up.pxi)."""

from __future__ import annotations

import pytest
from guests_kit import DESCRIPTORS, gate

from hypervisor.bench._programs import CODE, place
from hypervisor.boot.entry import Entry
from hypervisor.machine import VirtualMachine
from hypervisor.paging.forms import FORMS
from hypervisor.state.model import MachineConfig

MEMORY = 8 << 20
COUNT = 5000
# mov ebp,0x5010; mov edx,3; mov ecx,COUNT; 1: mov eax,[ebp-16]; bt eax,edx; adc ebx,0; loop 1b; hlt
LOOP = bytes.fromhex("bd10500000 ba03000000 b988130000 8b45f0 0fa3d0 83d300 e2f5 f4")


def machine(code: bytes, paging: str = "traced") -> VirtualMachine:
    vm = VirtualMachine.create(MachineConfig(MEMORY, "guest", "exact"), paging=paging)
    vm.enter_kernel(Entry(CODE))
    place(vm, CODE, code)
    place(vm, 0x5000, bytes([8]))
    return vm


def test_the_loop_holds_what_would_be_untranslatable_if_it_began_elsewhere() -> None:
    assert b"\xf0\x0f\xa3\xd0" in LOOP


@pytest.mark.parametrize("paging", FORMS)
def test_it_runs_at_full_speed(paging: str) -> None:
    with machine(LOOP, paging) as vm:
        assert vm.run(instructions=10 * COUNT).reason == "halted"
        assert vm.cpu.general(3) == COUNT
        assert vm.instructions == 3 + 4 * COUNT + 1
        assert sum(vm.exit_counts().values()) < 100


def test_it_is_the_same_however_often_it_is_stopped() -> None:
    limit = 600
    with machine(LOOP) as straight, machine(LOOP) as stopped:
        straight.run(until=limit)
        for until in range(1, limit + 1):
            stopped.run(until=until)
            if until % 7 == 0:
                stopped.paging.drop()
        assert stopped.digest() == straight.digest()


@pytest.mark.parametrize("paging", FORMS)
@pytest.mark.parametrize("before", [0, 1, 5])
def test_the_instruction_itself_is_an_invalid_opcode(before: int, paging: str) -> None:
    """There is no IDT entry for it: the guest ends, and not the process."""
    with machine(b"\x90" * before + bytes.fromhex("f00fa3d0 f4"), paging) as vm:
        assert vm.run(instructions=100).reason == "triple-fault"
        assert vm.exit_counts().get("HLT", 0) == 0
        assert vm.exit_counts()["untranslatable block"] > 0


def test_a_machine_outlives_a_guest_that_does_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    """Nor does QEMU's translator say a word, and the room that it wastes is got back."""
    with machine(bytes.fromhex("f00fa3d0 f4")) as vm:
        place(vm, 0x6000, gate(8, CODE, 14, 0) * 7)
        vm.vcpu.idt_base, vm.vcpu.idt_limit = 0x6000, 0x37
        place(vm, 0x8000, b"".join(DESCRIPTORS))
        vm.vcpu.gdt_base, vm.vcpu.gdt_limit = 0x8000, 8 * len(DESCRIPTORS) - 1
        assert vm.run(instructions=100_000).reason == "limit"
        assert vm.exit_counts()["untranslatable block"] > 50_000
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("before", [0, 3, 40, 600])
def test_code_before_and_behind_it_runs_to_the_same_state_under_all_forms(before: int) -> None:
    """A handler skips it, four times in a row; ``inc ebx`` before and behind each."""
    code = (b"\x43" * before + bytes.fromhex("f00fa3d0")) * 4 + b"\x43\xf4"
    skip = bytes.fromhex("83042404 cf")  # add dword [esp], 4; iret
    ends = []
    for paging in FORMS:
        with machine(code, paging) as vm:
            place(vm, 0x6000, gate(8, 0x7000, 14, 0) * 7)
            place(vm, 0x7000, skip)
            vm.vcpu.idt_base, vm.vcpu.idt_limit = 0x6000, 0x37
            place(vm, 0x8000, b"".join(DESCRIPTORS))
            vm.vcpu.gdt_base, vm.vcpu.gdt_limit = 0x8000, 8 * len(DESCRIPTORS) - 1
            vm.cpu.set_general(4, 0x9000)
            for until in range(0, 5 * before + 100, before // 3 + 1):
                vm.run(until=until)
            assert vm.run(instructions=1000).reason == "halted"
            assert vm.cpu.general(3) == 4 * before + 1
            ends.append((vm.instructions, vm.digest()))
    assert len(set(ends)) == 1
