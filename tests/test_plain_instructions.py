"""Code is announced for what its opcodes are, and so the lengths of plain instructions must be right."""

from __future__ import annotations

import itertools

import capstone
import pytest

from hypervisor.ext.cpu import plain_length

DECODER = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
REST = bytes.fromhex("11223344 55667788")
"""What follows ModRM: any SIB byte, displacement and immediate are taken from here."""
SIBS = (0x00, 0x24, 0x25, 0x45, 0xE5)
PREFIXES = (b"", b"\x66", b"\x64", b"\xf0", b"\xf3", b"\x66\x65", b"\xf2\x66")


def code_after(prefix: bytes, opcode: bytes) -> list[bytes]:
    """The opcode with every ModRM byte, with several SIB bytes."""
    return [
        prefix + opcode + bytes([modrm, sib]) + REST
        for modrm in range(256)
        for sib in (SIBS if modrm < 0xC0 and modrm & 7 == 4 else SIBS[:1])
    ]


@pytest.mark.parametrize("escape", [b"", b"\x0f"], ids=["one byte", "two bytes"])
def test_lengths_are_those_of_another_decoder(escape: bytes) -> None:
    plain = 0
    for prefix, opcode in itertools.product(PREFIXES, range(256)):
        for code in code_after(prefix, escape + bytes([opcode])):
            length = plain_length(code)
            other = next(DECODER.disasm(code, 0, 1), None)
            if length and other is not None:
                assert length == other.size, (code.hex(), other.mnemonic, other.op_str)
                plain += 1
    assert plain > 100_000


def test_what_is_not_all_there_is_not_plain() -> None:
    whole = bytes.fromhex("64 66 81 84 24 78563412 3412")  # ADD word FS:[ESP + 0x12345678], 0x1234
    assert plain_length(whole) == len(whole)
    for length in range(len(whole)):
        assert plain_length(whole[:length]) == 0


def test_what_differs_between_processors_is_not_plain() -> None:
    for code in ("66 e8 00000000", "66 0f84 00000000", "67 8b07", "c5 f8 77", "f6 08 01", "0f 20 c0", "d6"):
        assert plain_length(bytes.fromhex(code) + REST) == 0, code
