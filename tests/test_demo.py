"""`make demo` moves a guest between two processes, proves that it did not notice, and says so plainly."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hypervisor.cli import demo, main

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "hypervisor.cli.main", "demo"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}

ROWS = {"move begun at", "moved at", "exits on A", "round 1", "pages", "sent", "downtime", "console silent"}
ROW = re.compile(r"^([a-zA-Z]+(?: [a-zA-Z0-9]+)*) +([\d,.]+)  ", re.MULTILINE)


@pytest.mark.smoke
def test_without_a_terminal_it_tells_a_plain_story() -> None:
    done = subprocess.run(
        [*COMMAND, "--seed", "7"],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    story, _, summary = done.stdout.partition("\n\n")
    counted = {
        side: [
            int(text) for text in re.findall(rf"^ +\d+\.\d\d s  {side} \| \[2\] (\d+)$", story, re.MULTILINE)
        ]
        for side in "AB"
    }
    assert len(counted["A"]) > 2
    assert len(counted["B"]) > 2
    both = counted["A"] + counted["B"]
    assert both == list(range(1, len(both) + 1)), "a counter missed or repeated something on the way"
    rows = dict(ROW.findall(summary))
    assert set(rows) >= ROWS
    begun, moved = (int(rows[what].replace(",", "")) for what in ("move begun at", "moved at"))
    assert begun < moved, "the guest did not go on while it was copied"
    meanwhile = story.partition("and A goes on\n")[2].partition("B has the guest")[0]
    assert " A | [" in meanwhile, "the console was silent while the guest was copied"
    assert rows["pages"] == "4,096"
    b, twin = re.findall(r"^digest of .*?([0-9a-f]{32})", summary, re.MULTILINE)
    assert b == twin
    assert summary.count("equal") == 2
    assert "The guest did not notice." in summary
    columns = {line.rindex("  ", 0, 36) for line in summary.splitlines() if ROW.match(line)}
    assert len(columns) == 1, "the summary is not aligned"


def test_on_a_terminal_it_has_colours_and_a_progress_bar() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([*COMMAND, "--seed", "8"], env=ENVIRONMENT, stdout=theirs, stdin=theirs) as process:
        os.close(theirs)
        output = b""
        try:
            while data := os.read(ours, 1 << 16):
                output += data
        except OSError:  # on Linux the end of a pseudo-terminal is an error
            pass
        os.close(ours)
    assert process.returncode == 0
    text = output.decode()
    assert "\x1b[1;32mThe guest did not notice." in text
    assert "A -> B" in text
    assert "16.8/16.8 MB" in text


def test_the_moment_is_random_and_can_be_chosen_again(monkeypatch, capsys) -> None:
    moments = []
    for arguments in (["--seed", "5"], ["--seed", "5"], []):
        assert main.main(["demo", "--memory", "4m", *arguments]) == 0
        moments.append(re.search(r"^move begun at +([\d,]+)", capsys.readouterr().out, re.MULTILINE)[1])
    assert moments[0] == moments[1] != moments[2]


@pytest.mark.parametrize(("part", "words"), [("digest", "DIFFERENT"), ("console", "DIFFERENT")])
def test_a_difference_is_seen_and_is_a_failure(part: str, words: str, monkeypatch, capsys) -> None:
    class Forgetful(demo.Destination):
        def run_to(self, instruction: int):
            outputs = list(super().run_to(instruction))
            yield from outputs[:-1] if part == "console" else outputs
            if part == "digest":
                self.digest = f"{int(self.digest, 16) ^ 1:032x}"
            else:
                yield outputs[-1] + b"not what the guest said\r\n"

    monkeypatch.setattr(demo, "Destination", Forgetful)
    assert main.main(["demo", "--memory", "4m"]) == 1
    told = capsys.readouterr().out
    assert words in told
    assert "this is a defect" in told


def test_a_destination_that_dies_is_told_in_one_line(monkeypatch, capsys) -> None:
    class Mortal(demo.Destination):
        def run_to(self, instruction: int):
            self._process.kill()
            self._process.wait()
            yield from super().run_to(instruction)

    monkeypatch.setattr(demo, "Destination", Mortal)
    assert main.main(["demo", "--memory", "4m"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hv: B ")
