"""Numbers as people write them at a prompt: ``0x1000``, ``esp+8``, ``(eip & ~0xfff) + 4*ecx``.

A recursive-descent parser over Python's operators and precedences, without anything else of Python.
Names are the guest's registers, with or without the ``$`` or ``%`` that other debuggers ask for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from hypervisor.errors import UsageError

_TOKEN = re.compile(
    r"\s*(?:(0x[0-9a-f_]+|0b[01_]+|\d[\d_]*[kmg]?)(?![0-9a-z_])|[$%]?([a-z_]\w*)|(<<|>>|[-+*/&|^~()]))",
    re.IGNORECASE,
)

_POWERS = {"k": 1, "m": 2, "g": 3}

_LEVELS: tuple[dict[str, Callable[[int, int], int]], ...] = (
    {"|": lambda a, b: a | b},
    {"^": lambda a, b: a ^ b},
    {"&": lambda a, b: a & b},
    {"<<": lambda a, b: a << min(b, 64), ">>": lambda a, b: a >> min(b, 64)},
    {"+": lambda a, b: a + b, "-": lambda a, b: a - b},
    {"*": lambda a, b: a * b, "/": lambda a, b: a // b},
)
"""Binary operators, loosest first, all left-associative."""

_DEEPEST = 50
"""Parentheses and signs within each other: enough for people, and far from Python's recursion limit."""


def number(text: str, thousand: int = 1024) -> int:
    """A literal: decimal, ``0x``, ``0b``; decimal may end in k, m or g for powers of ``thousand``."""
    lower = text.lower()
    try:
        if lower[-1:] in _POWERS and not lower.startswith("0x"):
            return int(int(lower[:-1]) * thousand ** _POWERS[lower[-1]])
        return int(lower, 0) if lower[:2] in ("0x", "0b") else int(lower)
    except ValueError:
        raise UsageError(f"{text!r} is not a number") from None


def evaluate(text: str, names: Mapping[str, int]) -> int:
    """The value of an expression, an integer of any size and sign.

    Raises:
        UsageError: it is not one; the message shows the place.
    """
    return _Parser(text, names).whole()


class _Parser:
    def __init__(self, text: str, names: Mapping[str, int]) -> None:
        self._text = text
        self._names = names
        self._depth = 0
        self._tokens = self._split()
        self._next = 0

    def _split(self) -> list[str]:
        tokens, position, end = [], 0, len(self._text.rstrip())
        while position < end:
            found = _TOKEN.match(self._text, position)
            if found is None:
                raise UsageError(f"{self._text!r}: not understood from {self._text[position:].strip()!r} on")
            tokens.append(found.group(found.lastindex or 0))
            position = found.end()
        return tokens

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token

    def whole(self) -> int:
        value = self._binary(0)
        if self._peek():
            raise UsageError(f"{self._text!r}: {self._peek()!r} is not expected there")
        return value

    def _binary(self, level: int) -> int:
        if level == len(_LEVELS):
            return self._unary()
        operators = _LEVELS[level]
        value = self._binary(level + 1)
        while self._peek() in operators:
            operator = operators[self._take()]
            right = self._binary(level + 1)
            try:
                value = operator(value, right)
            except (ZeroDivisionError, ValueError):  # ValueError: a shift by a negative number
                raise UsageError(f"{self._text!r} has no value") from None
        return value

    def _unary(self) -> int:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise UsageError(f"{self._text[:40]!r}…: nested too deeply")
        try:
            return self._operand(self._take())
        finally:
            self._depth -= 1

    def _operand(self, token: str) -> int:
        if token == "-":
            return -self._unary()
        if token == "+":
            return self._unary()
        if token == "~":
            return ~self._unary()
        if token == "(":
            value = self._binary(0)
            if self._take() != ")":
                raise UsageError(f"{self._text!r}: a closing parenthesis is missing")
            return value
        if token[:1].isdigit():
            return number(token)
        if token.lower() in self._names:
            return self._names[token.lower()]
        if not token:
            raise UsageError(f"{self._text!r}: something is missing at the end")
        what = "no register or number" if token[0].isalpha() or token[0] == "_" else "not expected there"
        raise UsageError(f"{self._text!r}: {token!r} is {what}")
