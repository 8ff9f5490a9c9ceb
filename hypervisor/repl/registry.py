"""Commands of the prompt, and everything that follows from how each is declared.

A command is a function:

    @command("memory", "x")
    def memory(prompt: Prompt, address: Address, count: Count = 16) -> str:
        '''Show memory.

        More about it. The first line is its line in the list of commands.
        '''

Its name and aliases stand in the decorator; its parameters, with their kinds, whether they may be left
out, the usage line, the checks and the completion come from the signature (one that must be there may follow, as keyword-only, one that
may be left out); its help is its docstring.
What it returns is printed. A user's mistake is a UsageError, as everywhere.
"""

from __future__ import annotations

import inspect
import io
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from hypervisor.errors import UsageError
from hypervisor.repl.kinds import Kind, kind_of

_NAME = re.compile(r"([^\s/]*)(.*)", re.DOTALL)

Function = Callable[..., str | None]
F = TypeVar("F", bound=Function)


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: Kind[Any]
    default: Any

    @property
    def optional(self) -> bool:
        return self.default is not inspect.Parameter.empty

    @property
    def usage(self) -> str:
        return f"[{self.kind.label}]" if self.optional else self.kind.label


@dataclass(frozen=True)
class Command:
    name: str
    aliases: tuple[str, ...]
    function: Function
    parameters: tuple[Parameter, ...]
    summary: str
    text: str
    """The rest of the docstring."""

    @property
    def usage(self) -> str:
        return " ".join((self.name, *(parameter.usage for parameter in self.parameters)))

    def arguments(self, line: str, names: Mapping[str, int]) -> dict[str, Any]:
        """The values of what was typed after the command's name; UsageError says what is wrong.

        A word that does not fit a parameter that may be left out is tried on the next one (`run &`); if
        it fits none, the first one's complaint is what the user reads.
        """
        values: dict[str, Any] = {}
        rest = line.strip()
        complaint: UsageError | None = None
        for parameter in self.parameters:
            word, remainder = (rest, "") if parameter.kind.greedy else split_word(rest)
            if word:
                try:
                    values[parameter.name] = parameter.kind.read(word, names)
                except UsageError as error:
                    if not parameter.optional:
                        raise
                    complaint = complaint or error
                else:
                    rest, complaint = remainder, None
                    continue
            elif not parameter.optional:
                raise UsageError(f"{parameter.kind.label} is missing: {self.usage}")
            values[parameter.name] = parameter.default
        if rest:
            raise complaint or UsageError(f"{rest!r} is too much: {self.usage}")
        return values

    def complete(self, line: str, names: Mapping[str, int]) -> Iterable[str]:
        """Completions of the last word of what was typed after the command's name."""
        words = line.split()
        current = "" if not line or line[-1].isspace() else words.pop()
        for parameter in self.parameters[len(words) :]:
            yield from parameter.kind.complete(current, names)
            if not parameter.optional:
                break


class Registry:
    """Commands by name and alias."""

    def __init__(self) -> None:
        self._commands: dict[str, Command] = {}
        self._aliases: dict[str, str] = {}

    def __iter__(self) -> Iterator[Command]:
        return iter(sorted(self._commands.values(), key=lambda c: c.name))

    def command(self, name: str, *aliases: str) -> Callable[[F], F]:
        """Declare a function as a command; TypeError if a parameter's annotation carries no kind."""

        def declare(function: F) -> F:
            hints = get_type_hints(function, include_extras=True)
            parameters = tuple(
                Parameter(p.name, kind_of(hints[p.name]), p.default)
                for p in list(inspect.signature(function).parameters.values())[1:]
            )
            if any(p.kind.greedy for p in parameters[:-1]):
                raise TypeError(f"{name}: only the last parameter can take the rest of the line")
            summary, _, text = (inspect.getdoc(function) or "").partition("\n")
            for known in (name, *aliases):
                if known in self._commands or known in self._aliases:
                    raise TypeError(f"{known}: two commands of that name")
            self._commands[name] = Command(name, aliases, function, parameters, summary, text.strip())
            self._aliases |= dict.fromkeys(aliases, name)
            return function

        return declare

    def find(self, name: str) -> Command:
        """By name, alias, or a beginning that only one command has."""
        if name in self._commands:
            return self._commands[name]
        if name in self._aliases:
            return self._commands[self._aliases[name]]
        begins = [known for known in self._commands if known.startswith(name)]
        if len(begins) == 1:
            return self._commands[begins[0]]
        if begins:
            raise UsageError(f"{name!r} may be {', '.join(sorted(begins))}")
        raise UsageError(f"{name!r} is no command; `help` lists them")

    def parse(self, line: str, names: Mapping[str, int]) -> tuple[Command, dict[str, Any]]:
        """The command that a line means and its arguments."""
        # The name ends at the first blank, or where a format begins: x/4xb.
        name, rest = _NAME.match(line.strip()).groups()  # type: ignore[union-attr] # matches anything
        found = self.find(name)
        return found, found.arguments(rest, names)

    def complete(self, line: str, names: Mapping[str, int]) -> Iterable[str]:
        """Completions of the last word of a line."""
        name, space, rest = line.lstrip().partition(" ")
        if not space:
            known = [*self._commands, *(alias for alias in self._aliases if len(alias) > 1)]
            return sorted(word for word in known if word.startswith(name))
        try:
            found = self.find(name)
        except UsageError:
            return ()
        return list(dict.fromkeys(found.complete(rest, names)))


def split_word(text: str) -> tuple[str, str]:
    """The first word and what follows it. Quotes hold a word with blanks together, as in a shell.

    >>> split_word("'my file' 3")
    ('my file', '3')
    """
    stream = io.StringIO(text)
    lexer = shlex.shlex(stream, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    lexer.escape = ""
    try:
        word = lexer.get_token()
    except ValueError:
        raise UsageError(f"{text!r}: a quote is not closed") from None
    return word or "", stream.read().strip()


REGISTRY = Registry()
"""The prompt's commands; importing ``hypervisor.repl.commands`` fills it."""

command = REGISTRY.command
