"""Decoding the instruction that trapped, with Capstone.

Decoded instructions are cached by linear address and checked against the bytes found there, so a
kernel's few hundred sensitive instructions are decoded once each.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import capstone
from capstone import x86

from hypervisor.hardware.x86 import CS, D_BIG, DS, ES, FS, GS, MASK_32, SS
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
LONGEST = 15
"""No instruction is longer, in bytes."""
PREFIXES = b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3"
MOV_SYSTEM_REGISTER = re.compile(b"[" + PREFIXES + rb"]{0,12}\x0f[\x20-\x23](?=.)", re.DOTALL)

OTHER, MEMORY, IMMEDIATE, GENERAL_REGISTER, SEGMENT_REGISTER, CONTROL_REGISTER, DEBUG_REGISTER = range(7)
"""Kinds of operands."""
_MEMORY = MEMORY  # a C number where it is compiled; what others import cannot be
REGISTERS = {
    **{register: (GENERAL_REGISTER, number) for register, number in GENERAL.items()},
    **{register: (SEGMENT_REGISTER, number) for register, number in SEGMENTS.items()},
    **{register: (CONTROL_REGISTER, number) for register, number in CONTROL.items()},
    **{register: (DEBUG_REGISTER, number) for register, number in DEBUG.items()},
}
NO_REGISTER = 8

FAR_FORMS = {3: "lcall", 5: "ljmp"}
"""Values of the ModRM byte's reg field after opcode FF."""

Handler = Callable[[VirtualCpu, "Instruction"], "bool | None"]


class Operand:
    """An operand in the numbers of the instruction set, taken from Capstone's once."""

    def __init__(self, operand: Any, override: int | None) -> None:
        self.kind, self.number = OTHER, 0
        """What it is, and for a register, which."""
        self.value = 0
        """Of an immediate."""
        self.base = self.index = NO_REGISTER
        """General registers of a memory operand, or NO_REGISTER."""
        self.scale = self.displacement = self.segment = 0
        if operand.type == x86.X86_OP_REG:
            self.kind, self.number = REGISTERS.get(operand.reg, (OTHER, 0))
        elif operand.type == x86.X86_OP_IMM:
            self.kind = IMMEDIATE
            self.value = operand.imm & 0xFFFFFFFF
        elif operand.type == x86.X86_OP_MEM:
            memory = operand.mem
            self.kind = MEMORY
            self.base = GENERAL.get(memory.base, NO_REGISTER)
            self.index = GENERAL.get(memory.index, NO_REGISTER)
            self.scale = memory.scale
            self.displacement = memory.disp & 0xFFFFFFFF
            by_stack = memory.base in (x86.X86_REG_EBP, x86.X86_REG_ESP, x86.X86_REG_BP)
            self.segment = override if override is not None else SS if by_stack else DS


def name_of(decoded: Any) -> str:
    """The mnemonic without LOCK or REP; that of a far JMP or CALL always as the far one's."""
    name: str = decoded.mnemonic.split()[-1]
    if name in ("jmp", "call") and decoded.opcode[0] == 0xFF:
        return FAR_FORMS.get(decoded.modrm >> 3 & 7, name)
    return name


class Instruction:
    """A decoded instruction: Capstone's view of it, and what we do when it traps."""

    def __init__(self, gva: int, big: bool, decoded: Any, raw: bytes, handler: Handler | None) -> None:
        self.gva = gva
        self.big = big
        """Is it in a 32-bit code segment?"""
        self.mnemonic: str = decoded.mnemonic
        self.text = f"{decoded.mnemonic} {decoded.op_str}".strip()
        self.name = name_of(decoded)
        self.size: int = decoded.size
        self.opcode: int = decoded.opcode[0]
        self.raw = raw[: self.size]
        self.operand_size = 4 if big != (decoded.prefix[2] != 0) else 2
        self.address_size: int = decoded.addr_size
        self.segment_override = PREFIX_SEGMENTS.get(decoded.prefix[1])
        self.operands = [Operand(operand, self.segment_override) for operand in decoded.operands]
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
        big = v.cpu.segment_flags(CS) & D_BIG != 0
        found = self.cache[(gva ^ gva >> 12) % CACHE_SIZE]
        if found is not None and found.gva == gva and found.big == big and raw & found.mask == found.value:
            return found
        return self.decode(v, gva, big)

    def decode(self, v: VirtualCpu, gva: int, big: bool) -> Instruction | None:
        code = v.memory.fetch(v.paging.root, gva).to_bytes(8, "little")
        code += v.memory.fetch(v.paging.root, gva + 8 & 0xFFFFFFFF).to_bytes(8, "little")
        decoded = next(self.capstones[big].disasm(with_register(code[:LONGEST]), gva, 1), None)
        if decoded is None:
            return None
        instruction = Instruction(gva, big, decoded, code, self.handlers.get(name_of(decoded)))
        # The cache compares eight bytes.
        if instruction.size <= 8:
            self.cache[(gva ^ gva >> 12) % CACHE_SIZE] = instruction
        return instruction


def with_register(code: bytes) -> bytes:
    """MOV to and from control and debug registers means a general register whatever its ModRM byte's mod field
    says (Intel SDM 2, MOV); Capstone takes only the value that means so elsewhere, too.
    """
    found = MOV_SYSTEM_REGISTER.match(code)
    if found is None:
        return code
    at = found.end()
    return code[:at] + bytes((code[at] | 0xC0,)) + code[at + 1 :]


def effective_offset(v: VirtualCpu, i: Instruction, operand: Operand) -> int:
    """Offset of a memory operand in its segment, ``operand.segment``."""
    offset = operand.displacement
    if operand.base != NO_REGISTER:
        offset += v.cpu.general(operand.base)
    if operand.index != NO_REGISTER:
        offset += v.cpu.general(operand.index) * operand.scale
    return offset & (0xFFFF if i.address_size == 2 else MASK_32)


def operand_address(v: VirtualCpu, i: Instruction, operand: Operand) -> int:
    """Linear address of a memory operand."""
    return v.linear(operand.segment, effective_offset(v, i, operand))


def is_memory(operand: Operand) -> bool:
    return operand.kind == _MEMORY


def load_operand(v: VirtualCpu, i: Instruction, operand: Operand, size: int) -> int:
    """Value of a register or memory operand of 2 or 4 bytes."""
    if operand.kind == _MEMORY:
        return v.load(operand_address(v, i, operand), size, v.cpl == 3)
    value = v.cpu.general(operand.number)
    return value & 0xFFFF if size == 2 else value


def store_general(v: VirtualCpu, number: int, size: int, value: int) -> None:
    """Write a general register; 16-bit writes keep the upper half."""
    if size == 2:
        value = v.cpu.general(number) & ~0xFFFF | value & 0xFFFF
    v.cpu.set_general(number, value & MASK_32)
