"""How a subcommand of `hv` is declared: its words, its options, an example that runs, and a function."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from hypervisor.errors import UsageError

Run = Callable[[argparse.Namespace], int]


@dataclass(frozen=True)
class Option:
    """One argument. A name without dashes is positional.

    Attributes:
        names: as typed, ``("--memory", "-m")``.
        help: what it does, with its unit; the default is added by itself.
        read: text to value; raises UsageError. None: the text itself, or a switch if ``switch``.
        default: the value if it is not given. A positional with a default may be left out.
        choices: the only values there are.
        metavar: what the help calls the value.
        repeat: may be given several times; the value is a list.
        switch: takes no value: ``--x`` is True, ``--no-x`` False.
    """

    names: tuple[str, ...]
    help: str
    read: Callable[[str], Any] | None = None
    default: Any = None
    choices: Sequence[str] | None = None
    metavar: str | None = None
    repeat: bool = False
    switch: bool = False

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        text = self.help.replace("%", "%%")
        if self.default not in (None, "", False) and not self.switch:
            text += f" (default: {self.default})"
        settings: dict[str, Any] = {"help": text, "default": self.default}
        if self.switch:
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings |= {"metavar": self.metavar, "choices": self.choices}
            if self.read is not None:
                settings["type"] = _reader(self.read)
            if self.repeat:
                settings |= {"action": "append", "default": []}
            elif not self.names[0].startswith("-"):
                settings["nargs"] = "?"
        parser.add_argument(*self.names, **settings)


@dataclass(frozen=True)
class Command:
    """A subcommand. ``examples`` are whole shell lines; the tests run each."""

    name: str
    summary: str
    run: Run
    options: tuple[Option, ...] = ()
    examples: tuple[str, ...] = ()
    text: str = ""
    slow_examples: tuple[str, ...] = field(default=())
    """Examples that wait for somebody or take long; shown, and not run by the tests."""

    def add_to(self, commands: Any) -> None:
        shown = "\n".join(f"  {line}" for line in (*self.examples, *self.slow_examples))
        parser = commands.add_parser(
            self.name,
            help=self.summary,
            description=f"{self.summary[0].upper()}{self.summary[1:]}.\n\n{self.text}".strip(),
            epilog=f"examples:\n{shown}" if shown else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for option in self.options:
            option.add_to(parser)
        parser.set_defaults(run=self.run)


class Parser(argparse.ArgumentParser):
    """Complains in one line, as all of `hv` does, instead of two and a usage message."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def _reader(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """``read`` as argparse calls it: its complaint becomes part of one that names the option."""

    def checked(text: str) -> Any:
        try:
            return read(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked
