"""`hv demo`: a guest moves to a second monitor process while it works, and cannot tell.

Three machines run the same kernel with the same keys typed at the same instructions. A is in this
process. At an instruction chosen at random it is stopped and sent over TCP to B, a monitor in a process
of its own, which runs it on. The twin never moves. Virtual time is the number of instructions, so at
the end B and the twin must agree in every bit: that is what the digests say.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from hypervisor import images
from hypervisor.cli.command import Command, Option
from hypervisor.errors import HypervisorError, MigrationError
from hypervisor.migration.source import send
from hypervisor.repl import machines
from hypervisor.repl.kinds import size

if TYPE_CHECKING:
    from hypervisor.machine import VirtualMachine

PROMPT = b"tern$ "
KEYS = "count 500 20 &\ncount 500 30 &\nps\nsum 20\n"

CHUNK = 20_000
"""Instructions between two looks for the shell's prompt."""

BOOT_LIMIT = 50_000_000
"""Instructions after which a kernel that shows no prompt has failed to boot."""

BEFORE = (10_000_000, 30_000_000)
"""The guest moves between so many instructions after the keys."""

AFTER = 40_000_000
"""Instructions that it runs on at B before all is compared."""

LINES = 4
"""Lines of each console to show."""

PATIENCE = 60.0
"""Seconds until the other process is given up."""


class Arrived(NamedTuple):
    """What B says of the guest it got."""

    digest: str
    console: str


def run(options: argparse.Namespace) -> int:
    """Status 0 if B and the twin agree, else 1."""
    began = time.monotonic()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    image = images.find("tern")

    say(
        "A", f"boots tern ({image.stat().st_size:,} bytes, {options.memory >> 20} MiB) under trap-and-emulate"
    )
    vm = _boot(options.memory)
    with Destination() as destination:
        keys_at = boot_to_prompt(vm)
        say("A", f"shows a prompt after {keys_at:,} instructions; counters and a checksum are started there")
        vm.console.send(KEYS.encode())
        move_at = keys_at + random.Random(seed).randint(*BEFORE)  # noqa: S311 - any moment will do
        end_at = move_at + AFTER
        vm.run(until=move_at)
        say("A", f"stops at instruction {move_at:,}, wherever that is (--seed {seed})")

        with machines.progress("A -> B", sys.stdout) as advance:
            report = send(vm, destination.address, progress=advance)
        before = bytes(vm.console.output).decode(errors="replace")
        exits = vm.exit_counts()
        vm.close()
        say("B", f"has the guest: {report.ram.transferred:,} bytes, downtime {report.downtime:.0f} ms")
        arrived = destination.run_to(end_at)
        say("B", f"ran it on to instruction {end_at:,}")

    say("twin", "runs the same, without moving")
    with _boot(options.memory) as twin:
        twin.run(until=keys_at)
        twin.console.send(KEYS.encode())
        twin.run(until=end_at)
        straight, digest = bytes(twin.console.output).decode(errors="replace"), twin.digest()

    same_output = (before + arrived.console).rstrip("\n") == straight.rstrip("\n")
    same_state = arrived.digest == digest
    print()
    print(tail("A", before))
    print(tail("B", arrived.console))
    print(f"exits on A:      {sum(exits.values()):,}")
    print(f"digest of B:     {arrived.digest}")
    print(f"digest of twin:  {digest}")
    print(f"console output:  {'the same' if same_output else 'DIFFERENT'}, {len(straight):,} characters")
    good = same_output and same_state
    verdict = "The guest did not notice." if good else "THE GUEST IS NOT THE SAME: this is a defect."
    print(f"\n{verdict} ({time.monotonic() - began:.1f} s)")
    return 0 if good else HypervisorError.status


def _boot(memory: int) -> VirtualMachine:
    from hypervisor.machine import VirtualMachine  # noqa: PLC0415 - opening the CPU's library takes time

    return VirtualMachine.boot(images.find("tern"), memory=memory)


def boot_to_prompt(vm: VirtualMachine) -> int:
    """Run until the shell waits for a line; the instruction count then."""
    while PROMPT not in bytes(vm.console.output):
        stop = vm.run(instructions=CHUNK)
        if stop.reason != "limit" or vm.instructions > BOOT_LIMIT:
            raise HypervisorError(f"tern did not boot: {stop.reason} at instruction {vm.instructions:,}")
    return vm.instructions


def say(who: str, what: str) -> None:
    print(f"{who:>4}: {what}", flush=True)


def tail(who: str, console: str) -> str:
    """The last lines of a console as a screen would show them, to see the counters go on."""
    shown = []
    for line in console.split("\n"):
        # The shell redraws its prompt below a background job's line: carriage return, erase to the end.
        text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line.rstrip("\r").rpartition("\r")[2]).strip()
        if text and text != PROMPT.decode().strip():
            shown.append(f"   console on {who}: {text}")
    return "\n".join(shown[-LINES:])


class Destination:
    """B: another process, `hv run --incoming` with its prompt on a pipe."""

    def __init__(self) -> None:
        command = [
            sys.executable,
            "-m",
            "hypervisor.cli.main",
            "run",
            "--incoming",
            "tcp:127.0.0.1:0",
            "--prompt",
        ]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)  # noqa: S603 - ourselves
        self._address = ""

    @property
    def address(self) -> str:
        """Where it listens; it says so in its first line on stderr."""
        if not self._address:
            line = self._process.stderr.readline().decode() if self._process.stderr else ""
            found = re.search(r"tcp:\S+:\d+", line)
            if found is None:
                raise HypervisorError(f"B did not start: {line.strip() or 'it ended without a word'}")
            self._address = found[0]
        return self._address

    def run_to(self, instruction: int) -> Arrived:
        """Let the guest run to an instruction there; it ends with its process then."""
        try:
            # Bytes: reading text would turn the guest's carriage returns into line ends.
            script = f"until {instruction}\ndigest\nquit\n".encode()
            out, err = (
                stream.decode(errors="replace") for stream in self._process.communicate(script, PATIENCE)
            )
        except subprocess.TimeoutExpired:
            raise MigrationError(f"B did not reach instruction {instruction:,} in {PATIENCE:.0f} s") from None
        found = re.search(
            r"^\(hv\) until \d+\n(.*)^\[reached [^\n]*\n\(hv\) digest\n(\w+)$", out, re.MULTILINE | re.DOTALL
        )
        if found is None:
            raise MigrationError(f"B did not run the guest: {(err or out).strip()[-200:]}")
        return Arrived(found[2], found[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


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
