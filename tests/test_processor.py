"""Corners of the instruction set that a monitor gets wrong easily, each against the manual."""

from __future__ import annotations

import resource
import struct
from pathlib import Path

import pytest
from guests_kit import (
    CODE,
    DATA,
    DIRECTORY,
    ENOUGH,
    GDT,
    HANDLERS,
    IDT,
    PRELUDE,
    TABLE,
    TSS,
    descriptor,
    event,
    gate,
    load,
    machine,
    put,
)

from hypervisor.errors import HostError
from hypervisor.hardware.x86 import IF, TF
from hypervisor.machine import VirtualMachine
from hypervisor.state.model import MachineConfig


@pytest.mark.parametrize("modrm", [0x00, 0x04, 0x05, 0x40, 0x84, 0xC0])
def test_moves_of_control_registers_ignore_the_mod_field(modrm):
    """They mean a general register whatever it says, and no displacement or SIB byte follows (Intel SDM 2, MOV)."""
    general = modrm & 7
    read = bytes((0x0F, 0x20, modrm))
    write = bytes((0x0F, 0x22, modrm | 0x10))
    with machine(read + write + b"\x0f\x21" + bytes((modrm | 0x38,)) + b"\xf4") as vm:
        vm.run(instructions=6)
        assert vm.cpu.general(general) == 0x11
        assert vm.run(instructions=2).reason == "limit"
        assert vm.vcpu.cr2 == 0x11
        assert vm.cpu.general(general) == 0x400
        assert vm.run(instructions=ENOUGH).reason == "halted"


def test_a_halt_under_the_trap_flag_is_followed_by_a_debug_exception():
    """HLT ends, the trap comes, and with it the processor runs on (Intel SDM 3A, 17.3.1.4)."""
    # push 0x102; popf; hlt; and in the handler: mov al, 1; hlt
    with machine(b"\x68\x02\x01\x00\x00\x9d\xf4\xf4") as vm:
        put(vm, IDT + 8, gate(8, DATA, 14, 0))
        put(vm, DATA, b"\xb0\x01\xf4")
        assert vm.run(instructions=ENOUGH).reason == "halted"
        registers = vm.registers()
        assert registers["eip"] == DATA + 3
        assert registers["eax"] & 0xFF == 1
        frame = struct.unpack("<3I", vm.read("gva", registers["esp"], 12))
        # POPF is not trapped: its own instruction began with TF clear.
        assert frame == (CODE + PRELUDE + 7, 8, TF | 2)


@pytest.mark.parametrize("interrupts", [0, IF])
def test_an_interrupt_into_a_missing_handler_says_that_it_came_from_outside(interrupts):
    """EXT in the error code (Intel SDM 3A, 6.13): INT 0x20 leaves it clear, IRQ 0 sets it."""
    # A timer that ticks at once, and an 8259 that lets it through as vector 0x20.
    setup = b"".join(
        b"\xb0" + bytes((value,)) + b"\xe6" + bytes((port,))
        for port, value in (
            (0x20, 0x11),
            (0x21, 0x20),
            (0x21, 4),
            (0x21, 1),
            (0x21, 0xFE),
            (0x43, 0x34),
            (0x40, 5),
        )
        + ((0x40, 0),)
    )
    body = setup + (b"\xfb\xeb\xfe" if interrupts else b"\xcd\x20")
    with machine(body) as vm:
        put(vm, IDT + 8 * 0x20, gate(8, HANDLERS, 14, 3, present=0))
        assert event(vm) == (11, 0x20 * 8 + 2 + (1 if interrupts else 0))


def test_a_task_whose_segment_is_not_there_is_not_switched_to_by_half():
    """The page fault comes before anything changes (Intel SDM 3A, 7.3, step 5)."""
    far = b"\xea" + struct.pack("<IH", 0, 0x30)
    with machine(load(DIRECTORY) + b"\x0f\x22\xd8\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0" + far) as vm:
        put(vm, DIRECTORY, struct.pack("<I", TABLE | 7) + bytes(4092))
        put(vm, TABLE, struct.pack("<1024I", *(n << 12 | 7 for n in range(1024))))
        # The new TSS begins in a page that is there and ends in one that is not.
        put(vm, GDT + 0x30, descriptor(0x40FC0, 0x2FF, 0x89, 0))
        put(vm, TABLE + 4 * 0x41, bytes(4))
        before = bytes(vm.ram[TSS : TSS + 0x68])
        assert event(vm) == (14, 0)
        registers = vm.registers()
        assert (registers["cr2"], registers["tr"], registers["cr0"] & 8) == (0x41000, 0x28, 0)
        assert bytes(vm.ram[TSS : TSS + 0x68]) == before
        assert vm.ram[GDT + 0x28 + 5] == 0x8B
        assert vm.ram[GDT + 0x30 + 5] == 0x89


def test_fnstenv_shows_the_code_segment_that_the_kernel_believes_to_have():
    # fninit; fld1; fnsave [DATA+0x40]; fld1; fnstenv [DATA]; hlt
    body = b"\xdb\xe3\xd9\xe8\xdd\x35" + struct.pack("<I", DATA + 0x40) + b"\xd9\xe8\xd9\x35"
    with machine(body + struct.pack("<I", DATA) + b"\xf4") as vm:
        vm.vcpu.set_control(0x13, 0, 0)
        assert vm.run(instructions=ENOUGH).reason == "halted"
        for at in (DATA, DATA + 0x40):
            assert struct.unpack("<H", vm.read("gva", at + 16, 2)) == (8,)
        assert struct.unpack_from("<H", vm.capture().cpu.fpu, 12) == (8,)


def open_files() -> list[str]:
    return sorted(str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())


def test_a_machine_without_memory_leaves_no_image_open(tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    limit = resource.getrlimit(resource.RLIMIT_AS)
    before = open_files()
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, limit[1]))
    try:
        with pytest.raises(HostError, match="memory"):
            VirtualMachine(MachineConfig(memory=3 << 30), [image])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    assert open_files() == before
