"""tern's files, pipes and programs, on QEMU's ISA PC."""

from __future__ import annotations

import io
import itertools
import tarfile
from pathlib import Path

import pytest
from tern_guest import GUESTS, build, run_on_qemu

pytestmark = pytest.mark.qemu

MOTD = GUESTS / "tern" / "files" / "etc" / "motd"


def answers(*commands: str) -> list[list[str]]:
    """What each command prints, in one session."""
    lines = run_on_qemu("".join(f"{command}\n" for command in commands) + "poweroff\n").lines
    prompts = [i for i, line in enumerate(lines) if line.startswith("tern$ ")]
    assert [lines[i] for i in prompts] == [f"tern$ {command}" for command in (*commands, "poweroff")]
    return [lines[start + 1 : end] for start, end in itertools.pairwise(prompts)]


def test_the_archive_s_files_are_there() -> None:
    text = MOTD.read_text()
    printed, counted, found, without = answers(
        "cat /etc/motd", "wc < /etc/motd", "grep ^[aT].*tern /etc/motd", "cat /etc/motd | grep -v tern | wc"
    )
    assert printed == text.splitlines()
    assert [int(n) for n in counted[0].split()] == [text.count("\n"), len(text.split()), len(text)]
    assert found == []
    assert int(without[0].split()[0]) == sum("tern" not in line for line in text.splitlines())


def test_a_pipeline_passes_more_than_a_pipe_holds() -> None:
    [counted], [status] = answers("cat /bin/sh /bin/ls /bin/sh | cat | cat | wc", "echo $?")
    build()
    sizes = {name: (GUESTS / "build" / "tern" / "bin" / name).stat().st_size for name in ("sh", "ls")}
    assert int(counted.split()[2]) == 2 * sizes["sh"] + sizes["ls"]
    assert status == "0"


def test_the_status_of_a_pipeline_is_that_of_its_last_command() -> None:
    _, first, _, second = answers("echo a | grep b", "echo $?", "nosuch | grep -v b; echo", "echo $?")
    assert first == ["1"]
    assert second == ["0"]


def test_a_writer_to_a_closed_pipe_ends() -> None:
    [line], running = answers("count 0 1 | echo one; wait", "ps")
    assert line == "one"
    assert [row.split()[4] for row in running[1:]] == ["sh", "ps"]


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("cat /nosuch", "cat: /nosuch: not found"),
        ("cat /bin", "cat: /bin: is a directory"),
        ("cat /etc/motd/x", "cat: /etc/motd/x: not a directory"),
        ("echo a > /etc/new", "sh: /etc/new: read-only"),
        ("echo a > /etc/motd", "sh: /etc/motd: read-only"),
        ("rm /bin/sh", "rm: /bin/sh: read-only"),
        ("mkdir /a", "mkdir: /a: read-only"),
        ("cat < /nosuch", "sh: /nosuch: not found"),
        ("echo a >", "sh: a file's name is missing"),
        ("echo a | | echo b", "sh: a command is missing"),
        ("| echo b", "sh: a command is missing"),
        ("/etc/motd", "/etc/motd: not a program"),
        ("cd /etc/motd", "cd: /etc/motd: not a directory"),
    ],
)
def test_what_cannot_be_done_is_answered_in_one_line(command: str, complaint: str) -> None:
    assert answers(command) == [[complaint]]


def test_relative_paths_begin_in_the_current_directory() -> None:
    moved, listed, up, back = answers("cd bin", "ls sh ../etc", "cd ..; ls etc", "cd proc/../dev; ls")
    assert moved == []
    assert [line.split()[2] for line in listed] == ["sh", "help", "motd"]
    assert [line.split()[2] for line in up] == ["help", "motd"]
    assert [line.split()[2] for line in back] == ["console", "null", "zero"]


def test_the_kernel_shows_itself_in_proc() -> None:
    own, options, mounts = answers("cat /proc/self", "cat /proc/cmdline", "cat /proc/mounts")
    assert own[:5] == ["name: cat", "pid: 2", "parent: 1", "group: 2", "state: running"]
    assert options == ["quiet"]
    assert mounts[0] == "/: archive"


def test_it_stays_small_enough_to_be_read() -> None:
    sources = [path for kind in ("c", "h", "S") for path in (GUESTS / "tern").rglob(f"*.{kind}")]
    assert sum(len(path.read_text().splitlines()) for path in sources) < 9000
    assert build().stat().st_size <= 512 * 1024


def module(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def test_modules_that_are_archives_are_laid_over_the_files(tmp_path: Path) -> None:
    first = module(tmp_path / "a.tar", {"./notes/a": b"first\n", "etc/motd": b"replaced\n"})
    second = module(tmp_path / "b.tar", {"notes/b": b"second\n", "notes/a": b"third\n"})
    run = run_on_qemu(
        "cat /notes/a /notes/b /etc/motd; ls /notes\npoweroff\n", "quiet", "-initrd", f"{first},{second}"
    )
    assert run.lines[1:4] == ["third", "second", "replaced"]
    assert [line.split()[2] for line in run.lines[4:6]] == ["a", "b"]


def test_the_archive_by_itself_will_do_as_a_module() -> None:
    build()
    run = run_on_qemu("cat /etc/motd\npoweroff\n", "quiet", "-initrd", str(GUESTS / "build" / "initrd"))
    assert run.lines[1:-2] == MOTD.read_text().splitlines()


@pytest.mark.parametrize("length", [0, 100, 511, 512, 700, 1023, 1100])
def test_a_module_that_is_cut_off_does_no_harm(length: int, tmp_path: Path) -> None:
    whole = module(tmp_path / "whole", {"one": b"1" * 512, "two": b"2\n"}).read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(whole[:length])
    run = run_on_qemu("echo well\npoweroff\n", "quiet", "-initrd", str(cut))
    assert run.lines[1] == "well"
