"""`hv demo`: a guest moves to a second monitor process while it works, and cannot tell.

Three machines run the same kernel with the same keys typed at the same instruction. A is in this
process. From an instruction chosen at random on it is copied over TCP to B, a monitor in a process of its
own (`hv run --incoming ...`, which anybody can start by hand), while it goes on counting on its console; the
copying is slowed down so that there is something to see. Then it stops for some milliseconds, and B runs it
on. The twin never moves. Virtual time is the number of instructions, so at the end B and the twin must agree
in every bit of registers, devices and memory: that is what the digests say.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Self

from hypervisor import images
from hypervisor.cli.command import Command, Option
from hypervisor.errors import HypervisorError, MigrationError
from hypervisor.migration.policy import PreCopyPolicy
from hypervisor.migration.report import Report
from hypervisor.migration.source import send
from hypervisor.repl import machines
from hypervisor.repl.kinds import size

if TYPE_CHECKING:
    from hypervisor.machine import VirtualMachine

PROMPT = b"tern$ "
KEYS = b"count 1000 40 &\ncount 1000 60 &\ndirty 2560 256 &\nps\n"
"""Two counters that print every 40 and 60 ms, and a writer of 10 MB/s that checks what it wrote."""

POLICY = PreCopyPolicy(rate=2e6)
"""Slow enough to be watched."""

GLANCE = 0.002
"""Seconds between two looks at the console of the guest that runs."""

CHUNK = 100_000
"""Instructions between two looks for output."""

BOOT_LIMIT = 50_000_000
"""Instructions after which a kernel that shows no prompt has failed to boot."""

BEFORE = (700_000, 900_000)
"""The move begins between so many instructions after the keys: the guest, mostly idle, needs 300,000 for a second."""

AFTER = 200_000
"""Instructions that it runs on at B before all is compared."""

PATIENCE = 60.0
"""Seconds until the other process is given up."""


def run(options: argparse.Namespace) -> int:
    """Status 0 if B and the twin agree, else 1."""
    began = time.monotonic()
    show = Show()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)

    with boot(options.memory) as vm, Destination() as b:
        show.say(f"A boots tern: its kernel runs in ring 1, in {options.memory >> 20} MiB")
        typed_at = run_to_prompt(vm)
        begin_at = typed_at + random.Random(seed).randint(*BEFORE)  # noqa: S311 - any moment will do
        show.say(f"B waits in another process: hv run --incoming {b.address} --prompt --pace")
        vm.console.send(KEYS)
        vm.pace = True  # when it is idle it waits, as hardware would
        for output in run_in_chunks(vm, begin_at):
            show.console("A", output)
        show.say(f"the move begins at instruction {begin_at:,} (again: --seed {seed}), and A goes on")
        report = move(vm, b.address, show)
        moved_at, exits = vm.instructions, sum(vm.exit_counts().values())
        before = bytes(vm.console.output)
        end_at = moved_at + AFTER
        show.say("B has the guest, and goes on with it")
        after = b""
        for output in b.run_to(end_at):
            show.console("B", output)
            after += output
        show.end_line()
        arrived = b.digest
        show.say(f"B is stopped at instruction {end_at:,}; now the twin goes there, without a move")

    with boot(options.memory) as twin:
        twin.run(until=typed_at)
        twin.console.send(KEYS)
        twin.run(until=end_at)
        outcome = Outcome(begin_at, moved_at, end_at, report, exits, show.silence, arrived, twin.digest())
        # B's prompt ends an unfinished line before it says anything itself.
        same_text = (before + after).rstrip(b"\n") == bytes(twin.console.output).rstrip(b"\n")

    show.summary(outcome, same_text, time.monotonic() - began)
    return 0 if outcome.same_state and same_text else HypervisorError.status


class Outcome(NamedTuple):
    """What there is to tell at the end."""

    begin_at: int
    moved_at: int
    end_at: int
    report: Report
    exits: int
    silence: float
    """Seconds between A's last word and B's first."""
    arrived: str
    twin: str

    @property
    def same_state(self) -> bool:
        return self.arrived == self.twin

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(what, value, remark)"""
        ram, report = self.report.ram, self.report
        pages = ram.total // ram.page_size
        again = self.report.xbzrle_cache.pages + self.report.copied_pages
        yield "move begun at", f"{self.begin_at:,}", f"of {self.end_at:,} instructions"
        yield "moved at", f"{self.moved_at:,}", f"so many more ran at A: {self.moved_at - self.begin_at:,}"
        yield "exits on A", f"{self.exits:,}", "times the monitor stepped in until then"
        for one in report.rounds:
            yield (
                f"round {one.number}",
                f"{one.pages:,}",
                f"pages in {one.time:,.0f} ms, while A wrote to {one.dirty_pages:,}",
            )
        yield "pages", f"{pages:,}", f"{ram.duplicate:,} zero, {ram.normal:,} raw, {again:,} by others"
        yield "sent", f"{ram.transferred:,}", f"bytes, for {ram.total:,} bytes of memory"
        yield (
            "downtime",
            f"{report.downtime:.1f}",
            f"ms, of {report.total_time:,.0f} ms for all of the migration",
        )
        yield (
            "console silent",
            f"{1000 * self.silence:.0f}",
            "ms between A and B; it counts every 40 and 60 ms",
        )
        yield "digest of B", "", self.arrived
        yield "digest of the twin", "", f"{self.twin} ({'equal' if self.same_state else 'DIFFERENT'})"


def boot(memory: int) -> VirtualMachine:
    from hypervisor.machine import VirtualMachine  # noqa: PLC0415 - opening the CPU's library takes time

    return VirtualMachine.boot(images.find("tern"), memory=memory)


def run_to_prompt(vm: VirtualMachine) -> int:
    """Run until the shell waits for a line; the instruction count then."""
    while PROMPT not in vm.console.output:
        stop = vm.run(instructions=CHUNK)
        if stop.reason != "limit" or vm.instructions > BOOT_LIMIT:
            raise HypervisorError(f"tern did not boot: {stop.reason} at instruction {vm.instructions:,}")
    return vm.instructions


def run_in_chunks(vm: VirtualMachine, until: int) -> Iterator[bytes]:
    """Run to an instruction, giving the console's output as it comes."""
    seen = 0
    while True:
        yield bytes(vm.console.output[seen:])
        seen = len(vm.console.output)
        if vm.instructions >= until:
            return
        stop = vm.run(until=min(vm.instructions + CHUNK, until))
        if stop.reason != "limit":
            raise HypervisorError(f"tern ended by itself: {stop.reason} at instruction {vm.instructions:,}")


def move(vm: VirtualMachine, address: str, show: Show) -> Report:
    """Send the guest away while it runs, and show what it says meanwhile."""
    seen = len(vm.console.output)

    def look() -> None:
        nonlocal seen
        output = bytes(vm.console.output[seen:])
        seen += len(output)
        show.console("A", output)

    with machines.progress("A -> B", sys.stdout) as advance, ThreadPoolExecutor() as threads:
        life = threads.submit(vm.run)
        sending: Future[Report] = threads.submit(send, vm, address, policy=POLICY, progress=advance)
        try:
            while not sending.done():
                look()
                time.sleep(GLANCE)
            report = sending.result()
        finally:
            vm.request_stop()  # if it was not sent
            life.result()
        look()
    return report


class Show:
    """What the demo prints: plain text, and on a terminal in colour."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - 100 ms

        self._out = Console(highlight=False, soft_wrap=True)
        self._line = ""
        self._began = time.monotonic()
        self._spoke = ("", 0.0)
        self.silence = 0.0
        """Seconds between the last word of one console and the first of the next."""

    def _print(self, text: str, style: str = "") -> None:
        self._out.print(text, style=style, markup=False, emoji=False)

    def say(self, text: str) -> None:
        """A step of the story."""
        self._print(text, "bold")

    def console(self, who: str, output: bytes) -> None:
        """Output of the guest, line by line as a terminal would show it in the end, and when that was."""
        if not output:
            return
        now = time.monotonic()
        before, then = self._spoke
        if before not in ("", who):
            self.silence = now - then
        self._spoke = (who, now)
        *lines, self._line = (self._line + output.decode(errors="replace")).split("\n")
        for line in lines:
            # tern redraws its prompt below a background job's line: carriage return, erase to the end.
            text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line.rstrip("\r").rpartition("\r")[2]).rstrip()
            if text:
                self._print(f"{now - self._began:6.2f} s  {who} | {text}", "cyan" if who == "A" else "green")

    def end_line(self) -> None:
        """Nothing more comes from this console; the line that it left unfinished stays unseen."""
        self._line = ""

    def summary(self, outcome: Outcome, same_text: bool, seconds: float) -> None:
        self._print("")
        for what, value, remark in outcome.rows():
            self._print(f"{what:<20}{value:>12}  {remark}" if value else f"{what:<20}{remark}")
        self._print(f"{'console output':<20}{'equal' if same_text else 'DIFFERENT'}")
        if outcome.same_state and same_text:
            self._print(f"\nThe guest did not notice. ({seconds:.1f} s)", "bold green")
        else:
            self._print(f"\nTHE GUEST IS NOT THE SAME: this is a defect. ({seconds:.1f} s)", "bold red")


class Destination:
    """B: another process, `hv run --incoming` with its prompt on a pipe."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "hypervisor.cli.main", "run"]
        command += ["--incoming", "tcp:127.0.0.1:0", "--prompt", "--pace"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)  # noqa: S603 - ourselves
        self._address = ""
        self.digest = ""
        """Of the guest at the end of ``run_to``."""

    @property
    def address(self) -> str:
        """Where it listens; it says so in its first line on stderr."""
        if not self._address:
            assert self._process.stderr is not None
            self._await(self._process.stderr.fileno(), time.monotonic() + PATIENCE, "start")
            line = self._process.stderr.readline().decode(errors="replace")
            found = re.search(r"tcp:\S+:\d+", line)
            if found is None:
                raise HypervisorError(f"B did not start: {line.strip() or 'it ended without a word'}")
            self._address = found[0]
        return self._address

    def run_to(self, instruction: int) -> Iterator[bytes]:
        """Let the guest run there, giving its console's output as it comes; ``digest`` is its state then.

        This is the whole conversation, as a person would see it::

            (hv) until 60000000
            ... the guest's console ...
            [reached the instruction asked for, at instruction 60,000,000]
            (hv) digest
            00112233445566778899aabbccddeeff
            (hv) quit
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # if it is gone, its output ends too soon
            self._process.stdin.write(f"until {instruction}\ndigest\nquit\n".encode())
            self._process.stdin.close()
        # Bytes: reading text would turn the guest's carriage returns into line ends.
        deadline = time.monotonic() + PATIENCE
        pending, inside = b"", False
        while True:
            self._await(self._process.stdout.fileno(), deadline, f"reach instruction {instruction:,}")
            data = self._process.stdout.read1()  # type: ignore[attr-defined]  # a BufferedReader has it
            if not data:
                break
            pending += data
            if not inside and b"\n" in pending:
                _, _, pending = pending.partition(b"\n")
                inside = True  # what we typed was echoed; now the guest is heard
            if inside and b"[reached" not in pending:
                # The last line may be the beginning of B's own.
                whole, end, pending = pending.rpartition(b"\n")
                yield whole + end
        found = re.fullmatch(rb"(.*)\[reached [^\n]*\n\(hv\) digest\n(\w+)\n.*", pending, re.DOTALL)
        if found is None:
            raise MigrationError(f"B did not run the guest: {self._last_words(pending)}")
        yield found[1]
        self.digest = found[2].decode()

    def _await(self, descriptor: int, deadline: float, what: str) -> None:
        ready, _, _ = select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            raise MigrationError(f"B did not {what} in {PATIENCE:.0f} s")

    def _last_words(self, output: bytes) -> str:
        assert self._process.stderr is not None
        words = (self._process.stderr.read() or output).decode(errors="replace").strip()
        return words[-200:] or "it ended without a word"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


COMMAND = Command(
    name="demo",
    summary="move a running guest to a second monitor, and prove that it did not notice",
    run=run,
    options=(
        Option(("--memory",), "guest RAM in bytes", size, 16 << 20, metavar="SIZE"),
        Option(("--seed",), "choose the same moment again", int, metavar="N"),
    ),
    slow_examples=("hv demo", "hv demo --seed 7"),
    text="Takes well under a minute.",
)
