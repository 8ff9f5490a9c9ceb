"""tern on QEMU's ISA PC: what its README promises. The reference for runs on this hypervisor."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tern_guest import exit_status, qemu_command, run_on_qemu, transcript

pytestmark = pytest.mark.qemu

DELETE = "\x7f"
KILL_LINE = "\x15"
INTERRUPT = "\x03"


@pytest.mark.smoke
def test_a_typed_session_gives_this_transcript() -> None:
    run = run_on_qemu(
        "echo hello   'a  b'  # comment\nps\nmem\nsum 2; echo $?\nnosuch\necho $?\npoweroff 3\n"
    )
    # How many pages a program takes is the compiler's business.
    lines = [re.sub(r"(?<=ing) +\d+| +\d+(?= pages)", " N", line) for line in run.lines]
    frames = lines[7]
    assert re.fullmatch(r"frames: \d+ total, \d+ reserved, \d+ used, \d+ free", frames)
    assert lines == [
        "tern$ echo hello   'a  b'  # comment",
        "hello a  b",
        "tern$ ps",
        "  PID PARENT STATE    PAGES NAME            TIME",
        "    1      0 sleeping N sh              T",
        "    3      1 running N ps              T",
        "tern$ mem",
        frames,
        "    1 sh N pages",
        "    4 mem N pages",
        "tern$ sum 2; echo $?",
        "sum 2: 17c65e9b",
        "0",
        "tern$ nosuch",
        "nosuch: not found",
        "tern$ echo $?",
        "127",
        "tern$ poweroff 3",
        "",
    ]
    assert run.status == 3


def test_sum_is_the_checksum_that_its_comment_describes() -> None:
    words, x, total = [0] * 65536, 2463534242, 0
    for i in range(65536):
        x ^= x << 13 & 0xFFFFFFFF
        x ^= x >> 17
        x ^= x << 5 & 0xFFFFFFFF
        words[i] = x
    for i in range(65536):
        total = (total << 5 & 0xFFFFFFFF | total >> 27) ^ words[i * 4099 % 65536]
    assert run_on_qemu("sum 1\npoweroff\n").lines[1] == f"sum 1: {total:08x}"


def test_the_run_option_does_what_typing_does() -> None:
    commands = "echo a b; sum 1; fault divide; echo $?; poweroff 7"
    typed = run_on_qemu(f"{commands}\n")
    given = run_on_qemu(command_line=f'quiet run="{commands}"')
    assert given.lines == typed.lines
    assert given.status == typed.status == 7


def test_the_banner_names_memory_options_and_modules(tmp_path: Path) -> None:
    module = tmp_path / "notes"
    module.write_bytes(bytes(5000))
    run = run_on_qemu("", 'run="poweroff"', "-m", "64", "-initrd", f"{module} some words,{module}")
    assert run.lines == [
        "tern: a small kernel for a small machine",
        "tern: memory: 64 MiB",
        'tern: command line: run="poweroff"',
        "tern: module: notes some words, 5000 bytes",
        "tern: module: notes, 5000 bytes",
        "tern$ poweroff",
        "",
    ]


@pytest.mark.parametrize("megabytes", [2, 24, 600, 2000])
def test_any_amount_of_memory_will_do(megabytes: int) -> None:
    run = run_on_qemu("sum 1\npoweroff 9\n", "quiet", "-m", str(megabytes))
    assert run.lines[1] == "sum 1: 58cf84d2"
    assert run.status == 9


def test_large_pages_are_used_where_the_command_line_asks() -> None:
    run = run_on_qemu("sum 1\npoweroff 9\n", "quiet pse", "-m", "64", "-cpu", "pentium")
    assert run.lines[1] == "sum 1: 58cf84d2"
    assert run.status == 9


def test_every_fault_ends_its_process_and_nothing_else() -> None:
    run = run_on_qemu("mem\nfault all\nfault divide; echo $?\nmem\nps\npoweroff\n")
    killed = [
        re.sub(r"0x0040\w+", "CODE", line.partition("killed: ")[2])
        for line in run.lines
        if "killed: " in line
    ]
    assert killed == [
        "read from 0x00000000 (nothing there), eip CODE",
        "read from 0xc0100000 (protected), eip CODE",
        "write to 0xc0100000 (protected), eip CODE",
        "write to CODE (protected), eip CODE",
        "jump to 0x30000000 (nothing there), eip 0x30000000",
        killed[5],  # where the stack ends, to the byte, is the compiler's business
        "general protection, error 0, eip CODE",
        "general protection, error 0, eip CODE",
        "general protection, error 0, eip CODE",
        "general protection, error 0, eip CODE",
        "divide error, error 0, eip CODE",
        "invalid opcode, error 0, eip CODE",
        "general protection, error 10, eip CODE",
        "general protection, error 102, eip CODE",
        "breakpoint, error 0, eip CODE",
        "FPU error, error 0, eip CODE",
        "divide error, error 0, eip CODE",
    ]
    assert re.fullmatch(r"write to 0xbffb\w+ \(nothing there\), eip CODE", killed[5])
    assert "128" in run.lines
    assert [line for line in run.lines if line.endswith("bad address")] == [
        "write: bad address",
        "read: bad address",
        "exec: bad address",
    ]
    assert not [line for line in run.lines if "did no harm" in line]
    before, after = (line for line in run.lines if line.startswith("frames:"))
    assert before == after, "a dead process left frames behind"
    assert [line.split()[4] for line in run.lines[-4:-2]] == ["sh", "ps"]


def test_lines_can_be_edited() -> None:
    # The interrupt comes first: all is typed ahead, and it would end a command that still runs.
    run = run_on_qemu(
        f"nonsense{INTERRUPT}echo e\necho abX{DELETE}c\necho{KILL_LINE}echo d\n{DELETE}\x08echo \x01f\x1b\npoweroff\n",
    )
    # What stays on the screen: each "\b \b" takes a character away.
    screen = [re.sub(r"\x08 \x08", "\x08", line) for line in run.lines]
    while any("\x08" in line for line in screen):
        screen = [re.sub(r"[^\x08]\x08", "", line) for line in screen]
    assert screen == [
        *("tern$ nonsense^C", "tern$ echo e", "e"),
        *("tern$ echo abc", "abc"),
        *("tern$ echo d", "d"),
        *("tern$ echo f", "f"),
        "tern$ poweroff",
        "",
    ]


@pytest.mark.parametrize("lines", [100, 1000])
def test_no_character_is_lost_however_fast_they_come(lines: int) -> None:
    """The larger script is longer than all buffers of the guest together, already while it boots."""
    commands = [f"echo line {i} of {lines}" for i in range(lines)]
    run = run_on_qemu("\n".join([*commands, "poweroff", ""]))
    expected = [text for command in commands for text in (f"tern$ {command}", command[5:])]
    assert run.lines == [*expected, "tern$ poweroff", ""]


def test_background_lines_can_be_taken_out_of_the_transcript() -> None:
    foreground = "echo one\nspin -n 300000\necho two\ncount 3 30\necho three\n"
    quiet = run_on_qemu(f"{foreground}poweroff\n")
    noisy = run_on_qemu(f"count 0 10 &\ncount 5 20 &\n{foreground}poweroff\n")
    assert b"[2] " in noisy.console
    assert b"[3] " in noisy.console
    assert noisy.lines == ["tern$ count 0 10 &", "tern$ count 5 20 &", *quiet.lines]


def test_a_background_job_counts_to_its_end() -> None:
    run = run_on_qemu("count 4 20 &\nwait\npoweroff\n")
    told = re.findall(rb"\[2\] ([^\r]*)", run.console)
    assert told == [b"started", b"1", b"2", b"3", b"4", b"done"]


def test_jobs_that_never_pause_do_not_stop_the_others() -> None:
    run = run_on_qemu(
        "spin 999999 &\nspin -n 4000000000 &\necho alive\nsum 1\nkill 2 3\nwait\nps\npoweroff\n"
    )
    lines = run.lines
    assert "alive" in lines
    assert "sum 1: 58cf84d2" in lines
    assert len(re.findall(rb"\[[23]\] killed", run.console)) == 2
    assert [line.split()[4] for line in lines if re.match(r" +\d+ ", line)] == ["sh", "ps"]


def test_control_c_ends_the_job_in_the_foreground() -> None:
    with subprocess.Popen(
        qemu_command("quiet"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as qemu:
        assert qemu.stdin
        assert qemu.stdout
        console = qemu.stdout.read(1)  # a kernel that starts up clears its receiver
        qemu.stdin.write(b"count 0 10\n")
        while b"\n2\r\n" not in console:
            console += qemu.stdout.read(1)
        qemu.stdin.write(b"\x03echo still here\npoweroff 4\n")
        console += qemu.stdout.read()
    lines = transcript(console)
    assert lines[-5:] == ["killed", "tern$ echo still here", "still here", "tern$ poweroff 4", ""]
    assert exit_status(qemu.returncode) == 4


def test_kill_and_wrong_arguments_are_answered_in_one_line() -> None:
    run = run_on_qemu("kill 1\nkill 99\nkill x\nfault nosuch\necho " + "w " * 40 + "\npoweroff\n")
    assert [line for line in run.lines if not line.startswith("tern$")] == [
        "kill: 1: invalid argument",
        "kill: 99: no such process",
        "kill: x: invalid argument",
        "fault: no kind nosuch",
        "sh: too many words",
        "",
    ]


def test_too_many_processes_are_refused() -> None:
    run = run_on_qemu("sleep 100000 &\n" * 70 + "kill 2\nexit 5\n")
    assert run.lines.count("sh: fork: too many processes") == 70 - 63 + 1
    assert run.status == 5


@pytest.mark.parametrize(("command_line", "status"), [("quiet init=sum", 0), ('quiet run="exit 5"', 5)])
def test_the_machine_ends_with_its_first_process(command_line: str, status: int) -> None:
    run = run_on_qemu("", command_line)
    assert run.status == status
    assert run.lines[-2] == f"tern: init exited with status {status}"


def test_a_panic_shows_registers_and_callers_and_ends_the_machine() -> None:
    run = run_on_qemu("", "quiet crash")
    text = "\n".join(run.lines)
    assert text.startswith("tern: panic: page fault in the kernel, error 3, process 0 (idle)\n")
    assert re.search(r"eax \w{8}  ebx \w{8}  ecx \w{8}  edx \w{8}\n", text)
    assert re.search(r"  at c01\w+ kernel_main\+0x\w+\n.*called from c01\w+ start\+0x\w+\n$", text)
    assert run.status == 127


def test_an_unknown_init_is_named() -> None:
    run = run_on_qemu("", "quiet init=nosuch")
    assert run.lines[0] == "tern: panic: cannot run init=nosuch"
    assert run.status == 127
