"""Code that the emulated CPU must never get to see.

Translating BT, BTS, BTR or BTC with a LOCK prefix and a register operand ends the process: QEMU forgets that
this is an invalid opcode (Intel SDM 2, LOCK) and uses an address that it never computed. All one-byte and
two-byte opcodes were tried with all prefixes in 32-bit code, and there is no
other; 16-bit code was not swept. Since it happens while a block is
translated, before anything could exit, the bytes have to be found before the page is fetched from.
"""

from __future__ import annotations

import re

PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
"""With one of these such an instruction begins."""
_PREFIX = rb"[\x26\x2e\x36\x3e\x64-\x67\xf0\xf2\xf3]"
_OPCODE = rb"\x0f(?:[\xa3\xab\xb3\xbb][\xc0-\xff]|\xba[\xe0-\xff])"

PATTERN = re.compile(rb"\xf0" + _PREFIX + rb"{0,13}" + _OPCODE)
_BEGINNING = re.compile(rb"\xf0" + _PREFIX + rb"*(?:\x0f[\xa3\xab\xb3\xba\xbb]?)?\Z")
_INSTRUCTION = re.compile(_PREFIX + rb"*" + _OPCODE)

LONGEST = 15
"""No instruction is longer, in bytes."""


def contained(code: bytes) -> bool:
    """Is there such an instruction, at whatever byte it begins?"""
    return PATTERN.search(code) is not None


def may_begin(tail: bytes) -> bool:
    """Could one begin in the last bytes of a page?"""
    return _BEGINNING.search(tail) is not None


def begins(code: bytes) -> bool:
    """Is the very first instruction one?"""
    found = _INSTRUCTION.match(code)
    return found is not None and b"\xf0" in found.group()[: -len(b"\x0f\xab\xc0")]


__all__ = ["LONGEST", "PREFIXES", "begins", "contained", "may_begin"]
