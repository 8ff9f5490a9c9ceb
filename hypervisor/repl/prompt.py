"""The interactive monitor: reads a line, does it, shows in its prompt what the guest is doing.

On a terminal, prompt_toolkit edits the line, completes it from the registry, and redraws the prompt when
the guest starts or stops behind it. Without one, lines come from a pipe or a file and are echoed, so
that a transcript reads like a session: tutorials and tests are written that way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hypervisor.errors import HypervisorError, UsageError
from hypervisor.migration.credentials import NO_CREDENTIALS, Credentials
from hypervisor.migration.policy import PreCopyPolicy
from hypervisor.repl.registry import REGISTRY
from hypervisor.repl.session import Session, describe

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer

HISTORY = Path("~/.local/state/hv/history")


class Ending(Enum):
    """Why the prompt was left."""

    QUIT = "quit"
    CONSOLE = "console"


class LeavePrompt(Exception):
    """Raised by the commands that end the prompt."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending)
        self.ending = ending


class Prompt:
    """One person's conversation with a session. Commands get it as their first argument.

    Attributes:
        session: the guest.
        out: where answers go.
        interactive: is there a terminal that can be taken over, asked and redrawn?
        credentials: for migrations.
        policy: when a migration stops the guest.
        report: file for the reports of migrations.
        fence: for replication; None: one that the monitors of this user on this host share.
        status: exit status of the last command that failed, 0 if none did.
    """

    def __init__(
        self,
        session: Session[Any],
        *,
        out: TextIO | None = None,
        interactive: bool = False,
        credentials: Credentials = NO_CREDENTIALS,
        report: Path | None = None,
        fence: Path | None = None,
    ) -> None:
        from hypervisor.repl import commands as _commands  # noqa: F401, PLC0415 - they import this module

        self.session = session
        self.out = out or sys.stdout
        self.interactive = interactive
        self.credentials = credentials
        self.policy = PreCopyPolicy()
        self.report = report
        self.fence = fence
        self.status = 0
        self._line_begun = False
        self._seen = 0
        self._seen_of: object = None
        self._register_names: Mapping[str, int] = {}

    # What commands use

    @property
    def terminal(self) -> TextIO | None:
        """Where a progress bar may be drawn."""
        return self.out if self.interactive else None

    def write(self, text: str) -> None:
        if text:
            self.out.write(text)
            self.out.flush()
            self._line_begun = not text.endswith("\n")

    def fresh_line(self) -> None:
        """End the line that the guest may have left unfinished (its own prompt, say)."""
        if self._line_begun:
            self.write("\n")

    def new_output(self) -> bytes:
        """What the guest printed since the last call."""
        if not self.session.present:
            return b""
        vm = self.session.vm
        if vm is not self._seen_of:
            self._seen_of, self._seen = vm, 0
        data = bytes(vm.console.output[self._seen :])
        self._seen += len(data)
        return data

    def show_output(self) -> None:
        self.write(self.new_output().decode(errors="replace"))

    # The conversation

    def execute(self, line: str) -> None:
        """Do one line. Errors that people can cause are told in a line of their own."""
        if not line.strip() or line.lstrip().startswith("#"):
            return
        try:
            found, arguments = REGISTRY.parse(line, self._names())
            answer = found.function(self, **arguments)
        except HypervisorError as error:
            self.status = error.status
            self.fresh_line()
            self.write(f"error: {error}\n")
        except KeyboardInterrupt:
            self.fresh_line()
            self.write("interrupted\n")
        else:
            if answer:
                self.fresh_line()
                self.write(answer.rstrip("\n") + "\n")

    def state(self) -> str:
        """The prompt's own text: what is the guest doing?"""
        session = self.session
        if not session.present:
            return "(hv: no guest) "
        if session.running:
            return "(hv running) "
        return "(hv ended) " if session.finished else "(hv) "

    def script(self, lines: Iterable[str]) -> Ending:
        """Do the lines of a pipe or file, echoing each behind the prompt."""
        try:
            for line in lines:
                self.fresh_line()
                self.write(self.state() + line.strip() + "\n")
                self.execute(line)
        except LeavePrompt as leave:
            return leave.ending
        return Ending.QUIT

    def interact(self) -> Ending:
        """Talk to a person at a terminal until they leave."""
        from prompt_toolkit import PromptSession  # noqa: PLC0415 - 150 ms, and only terminals need it
        from prompt_toolkit.auto_suggest import AutoSuggestFromHistory  # noqa: PLC0415
        from prompt_toolkit.patch_stdout import patch_stdout  # noqa: PLC0415

        reader: PromptSession[str] = PromptSession(
            history=_history(),
            completer=self._completer(),
            complete_while_typing=False,
            auto_suggest=AutoSuggestFromHistory(),
            refresh_interval=0.25,  # the prompt tells when a guest stops by itself
            bottom_toolbar=self._toolbar,
        )
        while True:
            try:
                with patch_stdout(raw=True):
                    line = reader.prompt(self.state)
                self.execute(line)
            except KeyboardInterrupt:  # Ctrl-C on a half-typed line drops it, as shells do
                continue
            except EOFError:
                return Ending.QUIT
            except LeavePrompt as leave:
                return leave.ending

    # Parts of it

    def _toolbar(self) -> str:
        session = self.session
        if not session.present or session.running:
            return " Tab completes; `stop` stops the guest, `console` goes to its terminal "
        return f" at instruction {session.vm.instructions:,}: {describe(session.last_stop)} "

    def _names(self) -> Mapping[str, int]:
        """The guest's registers, by which expressions may name values."""
        if not self.session.present:
            return {}
        if self.session.running:
            return _Moving(self._register_names)
        self._register_names = self.session.vm.registers()
        return self._register_names

    def _completer(self) -> Completer:
        from prompt_toolkit.completion import Completer, Completion  # noqa: PLC0415
        from prompt_toolkit.document import Document  # noqa: PLC0415

        prompt = self

        class FromRegistry(Completer):
            def get_completions(self, document: Document, complete_event: object) -> Iterator[Completion]:
                line = document.text_before_cursor
                word = "" if not line or line[-1].isspace() else line.split()[-1]
                for text in REGISTRY.complete(line, prompt._names()):
                    yield Completion(text, start_position=-len(word))

        return FromRegistry()


class _Moving(dict[str, int]):
    """Registers of a guest that runs: they have names, for completion, but no values."""

    def __getitem__(self, name: str) -> int:
        raise UsageError(f"{name} has no value while the guest is running: `stop` it first")


def _history() -> Any:
    """Lines of earlier sessions if they can be kept, else of this one."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory  # noqa: PLC0415

    path = HISTORY.expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(os.fspath(path))
