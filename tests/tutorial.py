"""Runs the examples of a Markdown page, and compares what they show with what the page says they show.

The fences mean:

    python    a part of one Python program: all of a page's run in order, in one process
    output    what the python block above prints; without one it must print nothing
    console   a terminal: "$ COMMAND" lines are given to sh, what follows each is its output, stdout and
              stderr as they come. If the command is `hv run ... --prompt`, lines "(hv) COMMAND" are typed
              to it, also those of the page's next console blocks up to the next "$". "console B" is a
              second terminal. What waits there for a guest (--incoming, --backup) is left running beside the rest.
    text      not run

In expected output `...` stands for anything in a line, and a line `...` for any lines. Port 4444 stands for
a free one. Everything runs in a directory of its own. To run one page by hand:

    python tests/tutorial.py tutorials/02-a-traps-way.md
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PORT = "4444"
FENCE = re.compile(r"^```(.*)$")
WAITS = re.compile("--incoming|--backup")
KINDS = {"python", "output", "console", "text"}
PATIENCE = 60
"""Seconds that one command may take: a hang is to be reported as one."""

EDITED = re.compile(r"^hv: \S+ was edited after it was compiled: .*\n", re.MULTILINE)
"""The notice that the source of a module runs instead of its compiled form; it is true of no reader's copy."""


class Mismatch(AssertionError):
    """An example does not show what its page says."""


@dataclass
class Block:
    kind: str
    label: str
    """What follows the kind: the name of the terminal."""
    line: int
    """Line number of the block's first line."""
    text: str


def blocks(markdown: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    block: Block | None = None
    for number, line in enumerate(markdown.splitlines(), 1):
        fence = FENCE.match(line)
        if block is None and fence:
            kind, _, label = fence[1].strip().partition(" ")
            if kind not in KINDS:
                raise Mismatch(
                    f"line {number}: a block of kind {kind!r}; there are {', '.join(sorted(KINDS))}"
                )
            block = Block(kind, label, number + 1, "")
        elif block is not None and fence:
            found.append(block)
            block = None
        elif block is not None:
            block.text += line + "\n"
    if block is not None:
        raise Mismatch(f"line {block.line}: the block is not closed")
    return found


@dataclass
class Command:
    """One command of a terminal, what is typed to it and what all of it shows."""

    line: int
    text: str
    typed: str = ""
    shown: str = ""


@dataclass
class Step:
    """What is run in one go: a piece of Python, or a command."""

    line: int
    python: str | None = None
    command: Command | None = None
    shown: str = ""


def steps(page: list[Block]) -> list[Step]:
    """What to run, in order. Lines typed in later blocks belong to the command that reads them."""
    found: list[Step] = []
    terminals: dict[str, Command] = {}
    for block in page:
        if block.kind == "python":
            found.append(Step(block.line, python=block.text))
        elif block.kind == "output":
            if not found or found[-1].python is None or found[-1].shown:
                raise Mismatch(f"line {block.line}: output of no python block")
            found[-1].shown = block.text
        elif block.kind == "console":
            for number, line in enumerate(block.text.splitlines(), block.line):
                if line.startswith("$ "):
                    terminals[block.label] = Command(number, line[2:])
                    found.append(Step(number, command=terminals[block.label]))
                    continue
                command = terminals.get(block.label)
                if command is None:
                    raise Mismatch(f"line {number}: output of no command")
                prompt = re.match(r"\(hv[^)]*\) (.*)", line)
                if prompt:
                    command.typed += prompt[1] + "\n"
                command.shown += line + "\n"
    return found


def matches(expected: str, actual: str) -> bool:
    """Is this the output that the page shows, but for blanks at the ends of lines?

    >>> matches("a ... d\\n...\\nz\\n", "a b c d\\nx\\ny\\nz\\n")
    True
    >>> matches("a ... d\\n", "a b c\\n")
    False
    """
    pattern = ""
    for line in expected.rstrip().splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in line.rstrip().split("...")) + "\n"
    actual = "".join(line.rstrip() + "\n" for line in actual.rstrip().splitlines())
    return re.fullmatch(pattern, actual) is not None


def compare(where: str, expected: str, actual: str) -> None:
    if not matches(expected, actual):
        lines = difflib.unified_diff(
            expected.rstrip().splitlines(),
            actual.rstrip().splitlines(),
            "the page",
            "the example",
            lineterm="",
        )
        raise Mismatch(f"{where} shows something else:\n" + "\n".join(lines))


@dataclass
class Runner:
    """Runs one page in ``directory``."""

    path: Path
    directory: Path
    waiting: list[tuple[Command, subprocess.Popen[str], threading.Thread, list[str]]] = field(
        default_factory=list
    )

    def run(self) -> int:
        """Run the examples and return how many there were. Raises Mismatch."""
        text = self.path.read_text().replace(PORT, str(free_port()))
        page = steps(blocks(text))
        self._environment = environment(self.directory)
        python: subprocess.Popen[str] | None = None
        try:
            for step in page:
                where = f"{self.path.name}:{step.line}"
                if step.command is not None:
                    self._command(where, step.command)
                    continue
                if python is None:
                    python = self._start([sys.executable, __file__, "--serve"])
                assert python.stdin is not None
                assert python.stdout is not None
                request = {"code": step.python, "line": step.line, "file": str(self.path)}
                python.stdin.write(json.dumps(request) + "\n")
                python.stdin.flush()
                answer = python.stdout.readline()
                if not answer:
                    raise Mismatch(f"{where}: Python ended with status {python.wait()}")
                compare(where, step.shown, json.loads(answer))
            self._join()
        finally:
            if python is not None:
                python.communicate()
            for _, process, thread, _ in self.waiting:
                process.kill()
                process.wait()
                thread.join()
        return len(page)

    def _command(self, where: str, command: Command) -> None:
        if WAITS.search(command.text):
            self._wait_beside(command)
            return
        process = self._start(["sh", "-c", command.text], stderr=subprocess.STDOUT)
        try:
            shown, _ = process.communicate(command.typed, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Mismatch(f"{where}: `{command.text}` does not end") from None
        compare(where, command.shown, EDITED.sub("", shown))

    def _wait_beside(self, command: Command) -> None:
        """Start a monitor that waits for a guest, and go on when it is ready for it."""
        process = self._start(["sh", "-c", "exec " + command.text], stderr=subprocess.STDOUT)
        assert process.stdin is not None
        shown: list[str] = []
        ready = threading.Event()

        def listen() -> None:
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    shown.append(line)
                    if "waiting" in line:
                        ready.set()
            ready.set()

        thread = threading.Thread(target=listen)
        thread.start()
        self.waiting.append((command, process, thread, shown))
        process.stdin.write(command.typed)
        process.stdin.close()
        ready.wait(PATIENCE)

    def _join(self) -> None:
        """By the end of the page, what waited has had its guest and ends."""
        for command, process, thread, shown in self.waiting:
            where = f"{self.path.name}:{command.line}"
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                raise Mismatch(f"{where}: `{command.text}` does not end") from None
            thread.join()
            compare(where, command.shown, EDITED.sub("", "".join(shown)))

    def _start(self, command: list[str], stderr: int | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )


def environment(directory: Path) -> dict[str, str]:
    """With `hv` and `python` as a reader has them who works in this source tree."""
    bin_ = directory / ".bin"
    bin_.mkdir()
    for name, arguments in (("hv", "-m hypervisor.cli.main "), ("python", "")):
        script = bin_ / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        script.chmod(0o755)
    return os.environ | {
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(directory),
        "TERM": "dumb",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve() -> None:
    """The page's Python program: a block a line on stdin, what it prints (or its traceback) on stdout."""
    names: dict[str, object] = {"__name__": "__main__"}
    for line in sys.stdin:
        request = json.loads(line)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            try:
                # Blank lines before it make the line numbers of a traceback those of the page.
                code = "\n" * (request["line"] - 1) + request["code"]
                exec(compile(code, request["file"], "exec", dont_inherit=True), names)
            except Exception:
                traceback.print_exc(file=printed)
        sys.stdout.write(json.dumps(printed.getvalue()) + "\n")
        sys.stdout.flush()


def main() -> None:
    if sys.argv[1:] == ["--serve"]:
        serve()
        return
    for name in sys.argv[1:]:
        directory = Path(tempfile.mkdtemp())
        try:
            sys.stdout.write(f"{name}: {Runner(Path(name), directory).run()} examples\n")
        except Mismatch as error:
            sys.exit(str(error))
        finally:
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
