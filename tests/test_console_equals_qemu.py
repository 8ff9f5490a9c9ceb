"""tern prints the same here as on QEMU's ISA PC, whichever form of the monitor and clock runs it.

What of a console depends on time, and is left out, is said in guests/tern/README.md.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from tern_guest import Run, build, exit_status, run_on_qemu

from hypervisor.machine import VirtualMachine

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 2_000_000_000
"""Instructions within which every session has ended."""

DELETE, KILL_LINE, INTERRUPT = "\x7f", "\x15", "\x03"

# Ctrl-C comes first: it works when it arrives, and must not meet a command that was typed ahead of it.
FOREGROUND = f"""\
half a line{INTERRUPT}
help
echo hello   'a  b' "c  d"  # comment
ps; mem
sum 2; echo $?
nosuch; echo $?
fault; fault all
fault divide; echo $?
fault segment null; echo $?
echo abX{DELETE}c; echo nonsense{KILL_LINE}echo d
count 3 30; sleep 20; spin -n 20000; spin 30
kill 1; kill 99; kill x; fault nosuch
exit 5 6; mem
{"w " * 40}
mem; ps; uptime
poweroff 3
"""
BACKGROUND = """\
count 0 10 &
spin 999999 &
spin -n 4000000000 &
count 5 20 &
echo one
sum 2
fault null divide stack pointer
echo two; spin -n 300000; sleep 50
kill 2 3 4
wait
echo three; mem; ps
poweroff 4
"""
MANY_LINES = "".join(f"echo line {number} of many\n" for number in range(400)) + "poweroff\n"
SESSIONS = {
    "foreground": (FOREGROUND, "quiet"),
    "background": (BACKGROUND, "quiet"),
    "banner": ("poweroff\n", 'some words run="echo from the command line"'),
    "panic": ("", "quiet crash"),
    "no init": ("", "init=nosuch"),
    "init ends": ("", "quiet init=sum"),
    "exit": ("exit 5\n", ""),
    "4 MiB pages": ("sum 1; mem\npoweroff\n", "quiet pse"),
    "typed ahead": (MANY_LINES, ""),
}


@functools.cache
def on_qemu(name: str) -> Run:
    typed, command_line = SESSIONS[name]
    return run_on_qemu(typed, command_line)


def run_here(
    typed: str,
    command_line: str,
    memory: int = 16,
    clock: str = "exact",
    modules: Iterable[tuple[Path, str]] = (),
) -> Run:
    """The same life on this hypervisor; ``memory`` in MiB."""
    with VirtualMachine.boot(
        build(), memory=memory << 20, clock=clock, append=command_line, modules=modules
    ) as vm:
        vm.console.send(typed.encode())
        stop = vm.run(instructions=LIMIT) if clock == "exact" else vm.run()
        assert stop.reason == "exit", (stop, bytes(vm.console.output[-500:]))
        return Run(bytes(vm.console.output), exit_status(stop.status))


@functools.cache
def here(name: str) -> Run:
    return run_here(*SESSIONS[name])


def readable(run: Run) -> list[str]:
    """What depends neither on time nor on what QEMU never does.

    A shell whose child runs ``ps`` may not have begun to wait for it. RF is set in the EFLAGS that a fault saves
    (Intel SDM 3B, 17.3.1.1), but not by QEMU.
    """
    lines = [re.sub(r"^( +\d+ +\d+ )(sleeping|runnable) ", r"\1STATE    ", line) for line in run.lines]
    return [re.sub(r"^(tern:   eflags 000)[01]", r"\g<1>R", line) for line in lines]


@pytest.mark.qemu
@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_reads_as_on_qemu(name: str) -> None:
    assert readable(here(name)) == readable(on_qemu(name))
    assert here(name).status == on_qemu(name).status


@pytest.mark.qemu
@pytest.mark.parametrize("megabytes", [2, 3, 64, 600, 2000])
def test_any_amount_of_memory_reads_as_on_qemu(megabytes: int) -> None:
    session = "sum 1; mem\npoweroff\n"
    expected = run_on_qemu(session, "", "-m", str(megabytes))
    assert run_here(session, "", megabytes).lines == expected.lines


@pytest.mark.qemu
def test_modules_read_as_on_qemu(tmp_path: Path) -> None:
    notes, empty = tmp_path / "notes", tmp_path / "empty"
    notes.write_bytes(bytes(range(250)) * 40)
    empty.write_bytes(b"")
    expected = run_on_qemu("mem\npoweroff\n", "a b", "-initrd", f"{notes} some words,{notes},{empty} x")
    modules = [(notes, "some words"), (notes, ""), (empty, "x")]
    assert run_here("mem\npoweroff\n", "a b", modules=modules).lines == expected.lines


@pytest.mark.parametrize("name", ["foreground", "background", "banner", "panic"])
def test_the_wall_clock_changes_nothing_that_can_be_read(name: str) -> None:
    run = run_here(*SESSIONS[name], clock="wall")
    assert readable(run) == readable(here(name))
    assert run.status == here(name).status


INTERPRETED = """
import json, sys
sys.path.insert(0, sys.argv[1])
from test_console_equals_qemu import SESSIONS, run_here
from hypervisor import _source
from hypervisor.monitor import loop
assert _source.form_of(loop) == "source"
run = run_here(*SESSIONS[sys.argv[2]])
print(json.dumps([run.console.decode("latin-1"), run.status]))
"""


@pytest.mark.parametrize("name", ["foreground", "background", "banner", "panic"])
def test_interpreted_it_is_the_same_to_the_byte(name: str) -> None:
    """With the exact clock even what depends on time is equal."""
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED, str(Path(__file__).parent), name],
        env=os.environ | {"HV_PURE": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    console, status = json.loads(done.stdout)
    assert console == here(name).console.decode("latin-1")
    assert status == here(name).status
