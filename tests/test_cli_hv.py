"""The `hv` command as people and scripts use it: one line for a mistake, and an exit status that means something."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from hypervisor import bench
from hypervisor.bench import Record, compare, meets, record
from hypervisor.bench._chart import svg
from hypervisor.cli import main as cli
from hypervisor.cli.bench import figure
from hypervisor.cli.command import Option
from hypervisor.errors import UsageError

ROOT = Path(__file__).parents[1]
HV = [sys.executable, "-m", "hypervisor.cli.main"]
PATIENCE = 60


def hv(*arguments: str, keys: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HV, *arguments],
        input=keys,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        check=False,
    )


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nosuch"],
        ["run"],
        ["run", "tern", "--nosuch"],
        ["run", "tern", "--memory", "0"],
        ["run", "tern", "--memory", "12q"],
        ["run", "tern", "--memory", "4095"],
        ["run", "tern", "--technique", "magic"],
        ["run", "tern", "--clock", "sundial"],
        ["run", "tern", "--until", "-5"],
        ["run", "tern", "--load", "x"],
        ["run", "--load", "x", "--append", "y"],
        ["run", "--incoming", "nonsense"],
        ["bench", "nosuch"],
    ],
)
def test_a_command_that_makes_no_sense_is_told_in_one_line_with_status_2(arguments, capfd):
    assert cli.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("hv: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "nosuch"],
        ["run", "README.md"],
        ["run", "/"],
        ["run", "--load", "/nosuch/file"],
        ["run", "--load", "README.md"],
        ["run", "--load", "tests"],
        ["run", "tern", "--module", "/nosuch/file"],
        ["run", "--incoming", "tcp:203.0.113.1:1", "--insecure"],
    ],
)
def test_bad_input_is_told_in_one_line_with_status_1(arguments, capfd, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(arguments) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("hv: ")
    assert err.count("\n") == 1


def test_an_error_stays_one_line_whatever_is_in_the_message(capsys):
    assert cli.complain("two\nlines\t and  more", 1) == 1
    assert capsys.readouterr().err == "hv: two lines and more\n"


def test_a_port_in_use_is_told(capfd):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["run", "--incoming", f"tcp:127.0.0.1:{port}"]) == 1
    assert str(port) in capfd.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error_of_ours():
    done = subprocess.run(
        f"{' '.join(HV)} info | true",
        shell=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        check=True,
    )
    assert done.stderr == ""


# ---------------------------------------------------------------- declarations


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as left:
        cli.parser().parse_args([command.name, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert all(option.names[0] in shown for option in command.options if option.names[0].startswith("-"))
    assert command.examples or command.slow_examples
    assert all(line in shown for line in (*command.examples, *command.slow_examples))


@pytest.mark.parametrize("line", [line for command in cli.COMMANDS for line in command.examples])
def test_every_example_runs(line, tmp_path):
    (tmp_path / "hv").write_text(f'#!/bin/sh\nexec {" ".join(HV)} "$@"\n')
    (tmp_path / "hv").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        line,
        shell=True,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    # A guest that powers off decides the status itself, and an odd one is its way to say so.
    assert done.returncode == 0 or "poweroff" in line, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout


def test_an_option_that_complains_names_itself(capfd):
    cli.main(["run", "tern", "--memory", "lots"])
    assert "--memory/-m: 'lots' is not a number" in capfd.readouterr().err


def test_a_percent_sign_in_a_help_text_is_harmless():
    parser = cli.Parser()
    Option(("--share",), "50% or more", default=5).add_to(parser)
    assert "50% or more (default: 5)" in parser.format_help()


# ---------------------------------------------------------------- a guest


@pytest.mark.smoke
def test_the_guest_s_own_status_becomes_ours():
    done = hv("run", "tern", "--no-pace", keys="poweroff 3\n")
    assert done.returncode == 2 * 3 + 1
    assert "tern$ poweroff 3" in done.stdout
    assert done.stderr == ""


def test_stdout_is_the_guest_s_console_and_nothing_else():
    done = hv("run", "tern", "--until", "2m")
    assert done.returncode == 0
    assert done.stdout.startswith("tern: ")
    assert re.fullmatch(
        r"hv: guest: reached the instruction asked for, at instruction 2,000,000\n", done.stderr
    )


def test_a_command_line_reaches_the_guest():
    assert "verbose=9" in hv("run", "tern", "--until", "2m", "--append", "verbose=9").stdout


def test_a_script_at_the_prompt_ends_with_the_status_of_its_errors():
    assert hv("run", "tern", "--prompt", keys="run 1000\nquit\n").returncode == 0
    done = hv("run", "tern", "--prompt", keys="nonsense\nquit\n")
    assert done.returncode == 2
    assert done.stderr == ""


@pytest.mark.smoke
def test_a_saved_guest_resumes_where_it_was(tmp_path):
    file = tmp_path / "guest"
    saved = hv("run", "tern", "--prompt", keys=f"run 2m\nsave {file}\nrun 1m\ndigest\n").stdout
    loaded = hv("run", "--load", str(file), "--prompt", keys="until 3m\ndigest\n").stdout
    digests = [re.search(r"digest\n(\w{16,})\n", text)[1] for text in (saved, loaded)]
    assert digests[0] == digests[1]


@pytest.mark.smoke
def test_a_guest_migrates_between_two_processes_by_their_prompts():
    """What the README shows: `migrate` here, `--incoming` there, and the guest goes on there alone."""
    with subprocess.Popen(
        [*HV, "run", "--incoming", "tcp:127.0.0.1:0", "--prompt"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as there:
        try:
            address = re.search(r"tcp:\S+", there.stderr.readline())[0]
            here = hv("run", "tern", "--prompt", keys=f"run 2m\nmigrate {address}\nrun\n").stdout
            out, _ = there.communicate("until 3m\ndigest\nquit\n", timeout=PATIENCE)
        finally:
            there.kill()
    straight = hv("run", "tern", "--prompt", keys="until 3m\ndigest\n").stdout
    assert f"error: the guest is at {address} now" in here
    assert re.search(r"digest\n(\w+)", out)[1] == re.search(r"digest\n(\w+)", straight)[1]


# ---------------------------------------------------------------- a person


class Person:
    """Somebody at a terminal of their own, with `hv` running on it."""

    def __init__(self, *arguments: str) -> None:
        self.screen = ""
        self.keyboard, terminal = pty.openpty()
        self.before = termios.tcgetattr(terminal)
        self.terminal = terminal
        environment = os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.process = subprocess.Popen(
            [*HV, *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )

    def see(self, text: str) -> None:
        """Wait until the screen shows ``text``, and forget what came before."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.screen:
            left = deadline - time.monotonic()
            assert select.select([self.keyboard], [], [], max(left, 0))[0], f"no {text!r} in {self.screen!r}"
            self.screen += os.read(self.keyboard, 4096).decode(errors="replace")
        self.screen = self.screen.partition(text)[2]

    def type(self, keys: str) -> None:
        os.write(self.keyboard, keys.encode())

    def status(self) -> int:
        return self.process.wait(PATIENCE)

    def terminal_is_as_before(self) -> bool:
        return termios.tcgetattr(self.terminal) == self.before


@contextlib.contextmanager
def person(*arguments: str) -> Iterator[Person]:
    who = Person(*arguments)
    try:
        yield who
    finally:
        who.process.kill()
        who.process.wait()
        os.close(who.keyboard)
        os.close(who.terminal)


def test_a_person_types_to_the_guest_goes_to_the_prompt_and_back_and_leaves(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with person("run", "tern") as who:
        who.see("tern$ ")
        who.type("echo one two\r")
        who.see("\none two")
        who.type("\x01c")
        who.see("(hv running)")
        who.type("stop\r")
        who.see("stopped on request")
        who.type("registers eip\r")
        who.see("virtual")
        who.type("console\r")
        who.see("the guest's console")
        who.type("echo three four\r")
        who.see("\nthree four")
        who.type("\x01x")
        assert who.status() == 0
        assert who.terminal_is_as_before()


def test_ctrl_c_is_a_key_for_the_guest_on_its_console():
    with person("run", "tern") as who:
        who.see("tern$ ")
        who.type("\x03echo alive\r")
        who.see("\nalive")
        who.type("\x01x")
        assert who.status() == 0


def test_the_guest_s_end_gives_the_terminal_back():
    with person("run", "tern") as who:
        who.see("tern$ ")
        who.type("poweroff 4\r")
        assert who.status() == 9
        assert who.terminal_is_as_before()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_gives_the_terminal_back(number):
    with person("run", "tern") as who:
        who.see("tern$ ")
        who.process.send_signal(number)
        assert who.status() == 128 + number
        assert who.terminal_is_as_before()


def test_ctrl_c_while_waiting_for_a_guest_is_clean():
    with person("run", "--incoming", "tcp:127.0.0.1:0") as who:
        who.see("waiting for a guest")
        who.process.send_signal(signal.SIGINT)
        assert who.status() == 130
        assert "Traceback" not in who.screen


# ---------------------------------------------------------------- benchmarks


def test_a_record_works_out_ratio_and_verdict():
    made = record("cli", 300.0, "ns", reference=100.0, reference_name="bare exit", target="<= 3")
    assert made == Record("cli", 300.0, "ns", 100.0, "bare exit", 3.0, "<= 3", True)
    assert record("speed", 0.5, "x", target=">= 0.6").ok is False
    assert record("fact", 1.0, "s").ok is None


def test_a_target_of_another_form_is_a_defect():
    with pytest.raises(ValueError, match="a target is"):
        meets(1.0, "about 3")


def test_ours_and_the_reference_are_measured_in_turn():
    order = []

    def measured(who, figures):
        def measure():
            order.append(who)
            return figures.pop(0)

        return measure

    ours, reference = measured("a", [99, 1, 2, 3, 50, 4]), measured("b", [99, 5, 6, 7, 8, 60])
    assert compare(ours, reference) == (3, 7)
    assert order == ["a", "b"] * 6


@pytest.fixture
def a_benchmark(monkeypatch):
    def measure(quick):
        yield record(
            "thing", 3.0 if quick else 4.0, "ns", reference=2.0, reference_name="other", target="<= 1.5"
        )

    def find(name):
        if name != "things":
            raise UsageError("no such")
        return measure

    monkeypatch.setattr(bench, "names", lambda: ["things"])
    monkeypatch.setattr(bench, "find", find)
    monkeypatch.setattr(bench, "summary", lambda name: "measures things")


@pytest.mark.usefixtures("a_benchmark")
def test_bench_prints_records_as_json(capsys):
    assert cli.main(["bench", "things", "--json", "--quick"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "name": "thing",
            "value": 3.0,
            "unit": "ns",
            "reference": 2.0,
            "reference_name": "other",
            "ratio": 1.5,
            "target": "<= 1.5",
            "ok": True,
        }
    ]


@pytest.mark.usefixtures("a_benchmark")
def test_bench_prints_a_table_and_a_missed_target_is_no_failure(capsys):
    assert cli.main(["bench", "all"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("thing", "4 ns", "2 ns other", "2.00", "<= 1.5", "missed"))


@pytest.mark.usefixtures("a_benchmark")
def test_bench_draws_a_chart(tmp_path, capsys):
    path = tmp_path / "chart.svg"
    assert cli.main(["bench", "things", "--chart", str(path)]) == 0
    assert "thing" in capsys.readouterr().out
    assert "hv bench things" in "".join(ET.parse(path).getroot().itertext())


@pytest.mark.usefixtures("a_benchmark")
def test_a_chart_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path, capsys):
    path = tmp_path / "nowhere" / "chart.svg"
    assert cli.main(["bench", "things", "--chart", str(path)]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", f"hv: cannot write {path}: No such file or directory\n")


def test_a_chart_has_a_panel_for_each_thing_and_a_bar_for_each_way():
    records = [
        record(f"{what}: {way}", value, unit, reference=2.0, reference_name="QEMU")
        for what, unit in (("fork", "s"), ("a & b", "ns"))
        for way, value in (("trap, lazy", 1.0), ("guest, lazy", 4.0))
    ]
    picture = ET.fromstring(svg("hv bench x", records))
    bars = [float(one.get("width")) for one in picture.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert len(bars) == 4
    assert bars[1] == pytest.approx(4 * bars[0], rel=0.01)
    texts = [one.text for one in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"fork (s)", "a & b (ns)", "trap, lazy", "QEMU 2"} <= set(texts)


@pytest.mark.usefixtures("a_benchmark")
def test_bench_lists_what_there_is(capsys):
    assert cli.main(["bench"]) == 0
    assert capsys.readouterr().out == "things       measures things\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.1234, "0.123"), (1.0, "1"), (12.34, "12.3"), (99.96, "100"), (123456.0, "123,456")],
)
def test_figures_have_three_digits(value, shown):
    assert figure(value) == shown
