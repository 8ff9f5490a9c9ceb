"""Decoding the instruction that trapped, with Capstone.

Decoded instructions are cached by linear address and checked against the bytes found there, so a
kernel's few hundred sensitive instructions are decoded once each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import capstone
from capstone import x86

from hypervisor.hardware.x86 import CS, D_BIG, DS, ES, FS, GS, SS
from hypervisor.monitor.vcpu import VirtualCpu

SEGMENTS = {
    x86.X86_REG_ES: ES,
    x86.X86_REG_CS: CS,
    x86.X86_REG_SS: SS,
    x86.X86_REG_DS: DS,
    x86.X86_REG_FS: FS,
    x86.X86_REG_GS: GS,
}
PREFIX_SEGMENTS = {0x26: ES, 0x2E: CS, 0x36: SS, 0x3E: DS, 0x64: FS, 0x65: GS}
_NAMES_32 = ("EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI")
_NAMES_16 = ("AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI")
GENERAL = {
    getattr(x86, f"X86_REG_{name}"): i for names in (_NAMES_32, _NAMES_16) for i, name in enumerate(names)
}
CONTROL = {getattr(x86, f"X86_REG_CR{i}"): i for i in range(9)}
DEBUG = {getattr(x86, f"X86_REG_DR{i}"): i for i in range(8)}

CACHE_SIZE = 4096

Handler = Callable[[VirtualCpu, "Instruction"], "bool | None"]


class Instruction:
    """A decoded instruction: Capstone's view of it, and what we do when it traps."""

    def __init__(self, gva: int, decoded: Any, raw: bytes, handler: Handler | None) -> None:
        self.gva = gva
        self.mnemonic: str = decoded.mnemonic
        self.text = f"{decoded.mnemonic} {decoded.op_str}".strip()
        self.name = self.mnemonic.split()[-1]
        """The mnemonic without LOCK or REP."""
        self.size: int = decoded.size
        self.operands = decoded.operands
        self.opcode: int = decoded.opcode[0]
        self.raw = raw[: self.size]
        self.operand_size = 2 if decoded.prefix[2] else 4
        self.address_size: int = decoded.addr_size
        self.segment_override = PREFIX_SEGMENTS.get(decoded.prefix[1])
        self.repeat = decoded.prefix[0] in (0xF2, 0xF3)
        self.lock = decoded.prefix[0] == 0xF0
        self.handler = handler
        self.value = int.from_bytes(self.raw[:8], "little")
        self.mask = int.from_bytes(b"\xff" * min(8, decoded.size), "little")


class Decoder:
    """Decodes at a linear address of the guest. ``handlers`` maps instruction names to what emulates them."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self.handlers = handlers
        self.capstones = {}
        for big, mode in ((True, capstone.CS_MODE_32), (False, capstone.CS_MODE_16)):
            decoder = capstone.Cs(capstone.CS_ARCH_X86, mode)
            decoder.detail = True
            self.capstones[big] = decoder
        self.cache: list[Instruction | None] = [None] * CACHE_SIZE

    def at(self, v: VirtualCpu) -> Instruction | None:
        """The instruction at CS:EIP, or None if Capstone does not know it."""
        gva = v.cpu.linear_eip()
        raw = v.memory.fetch(v.paging.root, gva)
        found = self.cache[(gva ^ gva >> 12) % CACHE_SIZE]
        if found is not None and found.gva == gva and raw & found.mask == found.value:
            return found
        return self.decode(v, gva)

    def decode(self, v: VirtualCpu, gva: int) -> Instruction | None:
        big = v.cpu.segment_flags(CS) & D_BIG != 0
        code = v.memory.fetch(v.paging.root, gva).to_bytes(8, "little")
        code += v.memory.fetch(v.paging.root, gva + 8 & 0xFFFFFFFF).to_bytes(8, "little")
        decoded = next(self.capstones[big].disasm(code[:15], gva, 1), None)
        if decoded is None:
            return None
        instruction = Instruction(gva, decoded, code, self.handlers.get(decoded.mnemonic.split()[-1]))
        if not big:
            instruction.operand_size = 6 - instruction.operand_size
        # The cache compares eight bytes and knows 32-bit code only.
        if big and instruction.size <= 8:
            self.cache[(gva ^ gva >> 12) % CACHE_SIZE] = instruction
        return instruction


def effective_address(v: VirtualCpu, i: Instruction, operand: Any) -> tuple[int, int]:
    """(segment index, offset) of a memory operand."""
    memory = operand.mem
    address: int = memory.disp
    if memory.base in GENERAL:
        address += v.cpu.general(GENERAL[memory.base])
    if memory.index in GENERAL:
        address += v.cpu.general(GENERAL[memory.index]) * memory.scale
    segment = i.segment_override
    if segment is None:
        stack = memory.base in (x86.X86_REG_EBP, x86.X86_REG_ESP, x86.X86_REG_BP)
        segment = SS if stack else DS
    return segment, address & (0xFFFF if i.address_size == 2 else 0xFFFFFFFF)


def operand_address(v: VirtualCpu, i: Instruction, operand: Any) -> int:
    """Linear address of a memory operand."""
    segment, offset = effective_address(v, i, operand)
    return v.linear(segment, offset)


def is_memory(operand: Any) -> bool:
    return bool(operand.type == x86.X86_OP_MEM)


def load_operand(v: VirtualCpu, i: Instruction, operand: Any, size: int) -> int:
    """Value of a register or memory operand of 2 or 4 bytes."""
    if is_memory(operand):
        return v.load(operand_address(v, i, operand), size, v.user)
    value = v.cpu.general(GENERAL[operand.reg])
    return value & 0xFFFF if size == 2 else value


def store_general(v: VirtualCpu, number: int, size: int, value: int) -> None:
    """Write a general register; 16-bit writes keep the upper half."""
    if size == 2:
        value = v.cpu.general(number) & 0xFFFF0000 | value & 0xFFFF
    v.cpu.set_general(number, value & 0xFFFFFFFF)
