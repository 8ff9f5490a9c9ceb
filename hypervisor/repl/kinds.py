"""Kinds of arguments: how each is read, described and completed.

A kind is written once, as the annotation of a command's parameter, and the prompt's checks, help and
completion follow from it. The command line reads its options with the same functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, TypeVar, get_args, get_origin

from hypervisor.errors import UsageError
from hypervisor.migration.address import ADDRESSES, parse_address
from hypervisor.migration.address import Address as Peer
from hypervisor.repl.expressions import evaluate, number

T_co = TypeVar("T_co", covariant=True)

ADDRESS_SPACES = ("gva", "gpa", "hpa")
"""Guest virtual, guest physical, host physical (the physical memory of the emulated computer)."""


class GuestAddress(NamedTuple):
    """An address with its kind."""

    space: str
    value: int

    def __str__(self) -> str:
        return f"{self.space}:{self.value:#010x}"


@dataclass(frozen=True)
class Kind(Generic[T_co]):
    """The base: a word taken as it is.

    Attributes:
        label: what the usage line calls it.
        describe: what the help says a user may write.
        greedy: takes the rest of the line as typed; for the last parameter only.
    """

    label: str
    describe: str
    greedy: bool = False

    def read(self, text: str, names: Mapping[str, int]) -> T_co:
        """The value of ``text``, or UsageError. ``names`` are the guest's registers."""
        raise NotImplementedError

    def complete(self, text: str, names: Mapping[str, int]) -> Iterable[str]:
        """Whole words that ``text`` may become."""
        return ()


class _Text(Kind[str]):
    def read(self, text: str, names: Mapping[str, int]) -> str:
        return text


class _Count(Kind[int]):
    def read(self, text: str, names: Mapping[str, int]) -> int:
        return count(text)


class _Address(Kind[GuestAddress]):
    def read(self, text: str, names: Mapping[str, int]) -> GuestAddress:
        space, colon, expression = text.partition(":")
        if not colon:
            space, expression = "gva", text
        if space.lower() not in ADDRESS_SPACES:
            raise UsageError(f"{text!r}: an address is of the kind gva, gpa or hpa, not {space!r}")
        value = evaluate(expression, names)
        # A linear address wraps at 4 GiB as the CPU's own sums do (esp-8 with ESP 0); others do not.
        if space.lower() == "gva" and -(1 << 32) < value < 1 << 33:
            value &= 0xFFFFFFFF
        if not 0 <= value < 1 << 40:
            raise UsageError(f"{text!r}: {value:#x} is no address")
        return GuestAddress(space.lower(), value)

    def complete(self, text: str, names: Mapping[str, int]) -> Iterable[str]:
        for space in ADDRESS_SPACES:
            if not text or space.startswith(text.lower()):
                yield f"{space}:"
        head = re.match(r"(.*?)([a-z]*)$", text, re.IGNORECASE)
        if head is not None:
            before, word = head.groups()
            yield from (before + name for name in names if word and name.startswith(word.lower()))


@dataclass(frozen=True)
class Layout:
    """How to show memory: ``count`` units of ``size`` bytes, as ``style`` says."""

    count: int = 16
    style: str = "x"
    size: int = 4


class _Layout(Kind[Layout]):
    """The format of GDB's and QEMU's ``x`` command: count, style and size, the latter two in any order."""

    SIZES: ClassVar = {"b": 1, "h": 2, "w": 4, "g": 8}
    MOST = 65536

    def read(self, text: str, names: Mapping[str, int]) -> Layout:
        found = re.fullmatch(r"/(\d{0,9})([a-z]{0,2})", text)
        letters = found[2] if found else "?"
        style = "".join(letter for letter in letters if letter in "xduosi")
        unit = "".join(letter for letter in letters if letter in self.SIZES)
        count = int(found[1] or 1) if found else 0
        if len(style) > 1 or len(unit) > 1 or len(style + unit) < len(letters) or not 0 < count <= self.MOST:
            raise UsageError(f"{text!r}: /[COUNT][x|d|u|o|s|i][b|h|w|g] is expected, COUNT up to {self.MOST}")
        return Layout(count, style or "x", self.SIZES[unit or "w"])


class _Register(Kind[str]):
    def read(self, text: str, names: Mapping[str, int]) -> str:
        name = text.lstrip("$%").lower()
        if name not in names:
            raise UsageError(f"{text!r} is no register; `registers` shows them all")
        return name

    def complete(self, text: str, names: Mapping[str, int]) -> Iterable[str]:
        return (name for name in names if name.startswith(text.lower()))


class _File(Kind[FilePath]):
    def read(self, text: str, names: Mapping[str, int]) -> FilePath:
        return FilePath(text).expanduser()

    def complete(self, text: str, names: Mapping[str, int]) -> Iterable[str]:
        head, slash, tail = text.rpartition("/")
        folder = FilePath(head + slash or ".").expanduser()
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            return
        for entry in entries:
            if entry.name.startswith(tail) and (tail or not entry.name.startswith(".")):
                yield head + slash + entry.name + ("/" if entry.is_dir() else "")


class _HostPort(Kind[Peer]):
    def read(self, text: str, names: Mapping[str, int]) -> Peer:
        return parse_address(text)

    def complete(self, text: str, names: Mapping[str, int]) -> Iterable[str]:
        return [word for word in ("tcp:127.0.0.1:", "tls:", "unix:") if word.startswith(text)]


@dataclass(frozen=True)
class _Choice(Kind[str]):
    choices: tuple[str, ...] = ()

    def read(self, text: str, names: Mapping[str, int]) -> str:
        if text not in self.choices:
            raise UsageError(f"{text!r}: one of {', '.join(self.choices)} is expected")
        return text

    def complete(self, text: str, names: Mapping[str, int]) -> Iterable[str]:
        return (choice for choice in self.choices if choice.startswith(text))


def choice(label: str, *choices: str) -> Kind[str]:
    return _Choice(label, " or ".join(choices), choices=choices)


def count(text: str) -> int:
    """How many: ``2m`` is two million."""
    value = number(text, 1000)
    if not 0 < value < 1 << 63:
        raise UsageError(f"{text!r}: a count is at least 1 and below 2**63")
    return value


def size(text: str) -> int:
    """Bytes: ``32M``, ``65536``, ``0x10000``."""
    value = number(text)
    if value <= 0:
        raise UsageError(f"{text!r}: a size is at least 1")
    return value


Text = Annotated[str, _Text("TEXT", "the rest of the line", greedy=True)]
Word = Annotated[str, _Text("NAME", "a word")]
Count = Annotated[int, _Count("COUNT", "a number: 1000, 0x400, 5m (k, m, g are powers of 1000)")]
Address = Annotated[
    GuestAddress,
    _Address("ADDRESS", "[gva:|gpa:|hpa:]EXPRESSION with registers: esp+8, gpa:0x100000; gva if not said"),
]
Format = Annotated[
    Layout,
    _Layout("/FORMAT", "count, style (x d u o, s string, i instructions) and size (b h w g): /16xw, /4i, /s"),
]
Register = Annotated[str, _Register("REGISTER", "a register's name")]
Path = Annotated[FilePath, _File("FILE", "a file")]
HostPort = Annotated[Peer, _HostPort("MONITOR", f"where a monitor listens: {ADDRESSES}")]
Background = Annotated[str, choice("&", "&")]


def kind_of(annotation: Any) -> Kind[Any]:
    """The kind that an annotation carries, itself or (``Count | None``) in one of its alternatives."""
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, Kind):
            return extra
    for alternative in get_args(annotation):
        if get_origin(alternative) is Annotated:
            return kind_of(alternative)
    raise TypeError(f"{annotation!r} carries no kind of argument")
