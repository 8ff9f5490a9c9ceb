"""Corners of the instruction set that a monitor gets wrong easily, each against the manual."""

from __future__ import annotations

import pytest
from guests_kit import ENOUGH, machine


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
