"""The prompt, driven as tutorials drive it: lines in, a transcript out, against a small fake guest."""

from __future__ import annotations

import io
import itertools
import re

import msgspec
import pytest
from fake_machine import FakeMachine, FakeStop
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from hypervisor.errors import AddressError
from hypervisor.monitor.sites import Hole
from hypervisor.repl.prompt import Ending, Prompt
from hypervisor.repl.session import Session


@pytest.fixture
def vm():
    return FakeMachine()


@pytest.fixture
def prompt(vm):
    prompt = Prompt(Session(vm), out=io.StringIO())
    yield prompt
    prompt.session.close()


def say(prompt: Prompt, *lines: str) -> str:
    """What the prompt answers to the last of ``lines``."""
    for line in lines:
        prompt.out.seek(0)
        prompt.out.truncate()
        prompt.execute(line)
    return prompt.out.getvalue()


def test_a_script_reads_like_a_session(prompt):
    ending = prompt.script(["run 250\n", "\n", "# a remark\n", "digest", "quit", "never reached"])
    assert ending is Ending.QUIT
    assert prompt.out.getvalue() == (
        "(hv) run 250\n"
        "..\n[reached the instruction asked for, at instruction 250]\n"
        "(hv) \n"
        "(hv) # a remark\n"
        f"(hv) digest\n{250:064x}\n"
        "(hv) quit\n"
    )


def test_the_end_of_a_script_leaves_the_prompt(prompt):
    assert prompt.script([]) is Ending.QUIT


def test_an_error_is_one_line_and_decides_the_status(prompt):
    assert say(prompt, "nonsense") == "error: 'nonsense' is no command; `help` lists them\n"
    assert prompt.status == 2
    assert say(prompt, "x gpa:0x7fffffff") == "error: gpa:0x7fffffff is not mapped\n"
    assert prompt.status == 1


def test_the_prompt_shows_that_the_guest_runs_and_a_stop_always_stops_it(prompt):
    for _ in range(20):
        assert say(prompt, "run &") == ""
        assert prompt.state() == "(hv running) "
        assert re.search(r"\[stopped on request, at instruction [\d,]+\]\n$", say(prompt, "stop"))
        assert prompt.state() == "(hv) "


def test_commands_that_need_a_stopped_guest_say_so(prompt):
    say(prompt, "run &")
    for line in ("registers", "x esp", "disassemble", "step", "digest", "snapshot", "run", "exits", "screen"):
        assert "running" in say(prompt, line), line
    assert "no value while the guest is running" in say(prompt, "x esp")


def test_waiting_awaits_a_breakpoint(prompt, vm):
    say(prompt, "breakpoint 500", "run &")
    assert say(prompt, "wait").endswith("[reached the instruction asked for, at instruction 500]\n")
    assert vm.instructions == 500


def test_until_goes_to_an_instruction_count(prompt, vm):
    say(prompt, "run 10", "until 0x100")
    assert vm.instructions == 256
    assert "is past" in say(prompt, "until 5")


def test_a_step_shows_where_the_guest_is_then(prompt, vm):
    assert say(prompt, "step 3").startswith("             3  0x00002000  90")
    assert vm.instructions == 3


def test_a_step_to_where_no_memory_is_says_where_that_is(prompt, vm, monkeypatch):
    def nothing(gva, count):
        raise AddressError(f"gva {gva:#x}: not mapped in the guest's page tables")

    monkeypatch.setattr(vm, "disassemble", nothing)
    vm.position = 0xC0000000
    assert say(prompt, "step") == (
        "             1  0xc0000000  (its next instruction cannot be shown: "
        "gva 0xc0000000: not mapped in the guest's page tables)\n"
    )
    assert prompt.status == 0


def test_a_guest_that_ends_is_told(prompt, vm):
    vm.script = {120: FakeStop("triple-fault", "triple fault at 0x10")}
    assert say(prompt, "run") == ".\n[triple fault at 0x10, at instruction 120]\n"
    assert prompt.state() == "(hv ended) "
    assert "has ended" in say(prompt, "run")
    assert "has ended" in say(prompt, "step")


def test_ctrl_c_stops_a_guest_in_the_foreground(prompt, vm, monkeypatch):
    session = prompt.session
    wait, calls = session.wait, []

    def interrupted(timeout=None):
        calls.append(timeout)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return wait(timeout)

    monkeypatch.setattr(session, "wait", interrupted)
    assert "[stopped on request, at instruction" in say(prompt, "run")
    assert not session.running


def test_registers_are_shown_side_by_side_and_differences_marked(prompt):
    text = say(prompt, "registers")
    assert re.search(r"^eax +00000001 +00000001$", text, re.MULTILINE)
    assert re.search(r"^eflags +00000202 +00003302 \* IF IOPL=0 / TF IF IOPL=3$", text, re.MULTILINE)
    assert re.search(r"^cpl +00000001$", text, re.MULTILINE)
    assert say(prompt, "registers cs").splitlines()[1].split() == ["cs", "00000008", "00000009", "*"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x/4xb esp", "gva:0x00001000  00 01 02 03                                      ....\n"),
        ("x/2xh gpa:0x41", "gpa:0x00000041  4241 4443                                ABCD\n"),
        ("x/1xg hpa:0", "hpa:0x00000000  0706050403020100                   ........\n"),
        ("x/3ub 254", "gva:0x000000fe  254 255   0\n"),
        ("x/3db 254", "gva:0x000000fe    -2   -1    0\n"),
        ("x/2ob 8", "gva:0x00000008  010 011\n"),
        ("x/2s 0x100fc", None),
    ],
)
def test_memory_is_shown_as_asked(prompt, line, expected):
    if expected is None:
        assert say(prompt, line).splitlines()[0] == "gva:0x000100fc  'üýþÿ'"
    else:
        assert say(prompt, line) == expected


def test_memory_rows_carry_their_addresses(prompt):
    lines = say(prompt, "memory gpa:0x20").splitlines()
    assert [line.split()[0] for line in lines] == [f"gpa:{a:#010x}" for a in (0x20, 0x30, 0x40, 0x50)]
    assert lines[0] == "gpa:0x00000020  23222120 27262524 2b2a2928 2f2e2d2c   !\"#$%&'()*+,-./"


def test_instructions_are_shown_where_the_guest_is(prompt):
    assert say(prompt, "disassemble").startswith("=> 0x00002000  90")
    assert say(prompt, "x/2i 0x3000").splitlines()[1].split()[0] == "0x00003001"
    assert "guest virtual" in say(prompt, "disassemble gpa:0")


def test_an_address_is_followed_through_both_sets_of_tables(prompt):
    assert say(prompt, "translate 0x123") == (
        "guest tables of gva:0x00000123\n"
        "  PDE    gpa:0x00001000  00002067  WUAD-\n"
        "  PTE    gpa:0x00002000  00005025  -UA--\n"
        "  -> gpa:0x00005123\n"
        "\n"
        "shadow tables of gva:0x00000123\n"
        "  PDPTE  hpa:0x00000020  0000000000003001  present\n"
        "  PDE    hpa:0x00003000  0000000000004067  WUAD-\n"
        "  PTE    hpa:0x00004000  8000000001005025  -UA-- NX\n"
        "  -> hpa:0x01005123\n"
    )


def test_an_address_that_leads_nowhere_says_at_which_level(prompt):
    text = say(prompt, "translate 0x80000000")
    assert "nothing: a page fault at the PDE" in text
    assert "nothing: a page fault at the PDPTE" in text
    assert "guest virtual" in say(prompt, "translate gpa:1")


@pytest.mark.parametrize(
    ("levels", "pae", "expected"),
    [
        ([], False, "hpa:0xc0123456"),
        ([("PDE", 0, 0x004000E7)], False, "hpa:0x00523456"),
        ([("PDPTE", 0, 1), ("PDE", 0, 0x80000000002000E7)], True, "hpa:0x00323456"),
    ],
)
def test_large_pages_and_no_paging_translate_too(levels, pae, expected):
    from hypervisor.repl.commands.paging import result

    assert result("hpa", 0xC0123456, levels, pae=pae) == expected


def test_exits_are_counted_with_their_share(prompt):
    assert [line.split() for line in say(prompt, "exits").splitlines()] == [
        ["70", "70.0%", "#PF"],
        ["30", "30.0%", "#GP"],
        ["100", "in", "all"],
    ]


def test_the_screen_is_framed(prompt):
    assert say(prompt, "screen") == "+----+\n|tern|\n|$   |\n+----+\n"


def test_devices_show_what_they_hold(prompt):
    assert say(prompt, "devices") == "pit          version 1\n"
    assert "1193 (0x4a9)" in say(prompt, "devices pit")
    assert "no device; there are: pit" in say(prompt, "devices tip")


def test_a_snapshot_can_be_gone_back_to_again_and_again(prompt, vm):
    say(prompt, "run 100", "snapshot", "run 50", "snapshot later", "run 1")
    for name, expected in (("", 100), ("later", 150), ("default", 100)):
        assert say(prompt, f"restore {name}") == f"at instruction {expected}\n"
        assert vm.instructions == expected
    assert "there are: default, later" in say(prompt, "restore nosuch")


def test_going_back_revives_a_guest_that_has_ended(prompt, vm):
    vm.script = {50: FakeStop("triple-fault")}
    say(prompt, "run 10", "snapshot", "run", "restore")
    assert prompt.state() == "(hv) "
    assert "reached" in say(prompt, "run 5")


def test_console_text_goes_to_the_guest_with_a_line_end(prompt, vm):
    say(prompt, r"console echo it's \t 'fine'\\n")
    assert bytes(vm.console.sent) == b"echo it's \t 'fine'\\n\n"


def test_console_text_reaches_a_running_guest(prompt, vm):
    say(prompt, "run &", "console ps")
    assert bytes(vm.console.sent) == b"ps\n"


def test_console_shows_what_is_new_off_a_terminal_and_goes_there_on_one(prompt):
    prompt.execute("console hello")
    assert say(prompt, "console") == "hello\n"
    assert say(prompt, "console") == ""
    prompt.interactive = True
    assert prompt.script(["console"]) is Ending.CONSOLE


def test_info_tells_what_and_where(prompt, vm):
    text = say(prompt, "breakpoint 1000", "snapshot s", "run 7", "info")
    assert vm.identity in text
    assert re.search(r"^state +reached .* at instruction 7$", text, re.MULTILINE)
    assert re.search(r"^breakpoints +1,000$", text, re.MULTILINE)
    assert re.search(r"^snapshots +s$", text, re.MULTILINE)


def test_info_tells_what_became_of_a_technique_that_chooses(prompt, vm):
    vm.config = msgspec.structs.replace(vm.config, technique="auto")
    vm.technique = "trap"
    assert re.search(r"^technique +auto: trap, no hole was found$", say(prompt, "info"), re.MULTILINE)
    vm.technique, vm.hole = "patch", Hole(0x1000, 12_345, b"\x9c")
    assert "auto: patch, since the hole at 0x00001000, found at instruction 12,345" in say(prompt, "info")


def test_help_lists_every_command_and_explains_each(prompt):
    text = say(prompt, "help")
    for name in (
        "run",
        "stop",
        "step",
        "registers",
        "memory",
        "disassemble",
        "translate",
        "exits",
        "screen",
        "save",
    ):
        assert re.search(rf"^{name}\b", text, re.MULTILINE), name
        assert name in say(prompt, f"help {name}")
    assert "no command" in say(prompt, "help nosuch")


def test_files_that_cannot_be_loaded_leave_the_guest_alone(prompt, vm, tmp_path):
    bad = tmp_path / "bad"
    bad.write_bytes(b"not a machine")
    for path, how in itertools.product((bad, tmp_path / "nosuch", tmp_path), ("", " lazy")):
        answer = say(prompt, f"load {path}{how}")
        assert answer.startswith("error: ")
        assert answer.count("\n") == 1
    assert prompt.session.vm is vm
    assert not vm.closed


def test_a_peer_that_is_not_there_leaves_a_running_guest_running(prompt, monkeypatch):
    from hypervisor.migration.source import SendError
    from hypervisor.repl.commands import migration

    def nobody(vm, peer, **options):
        raise SendError(f"cannot reach {peer}; the guest is still here", None)

    monkeypatch.setattr(migration, "send", nobody)
    say(prompt, "run &")
    assert say(prompt, "migrate tcp:127.0.0.1:1").endswith("the guest is still here\n")
    assert prompt.state() == "(hv running) "
    say(prompt, "stop")
    say(prompt, "migrate tcp:127.0.0.1:1")
    assert prompt.state() == "(hv) "


def test_a_guest_in_doubt_does_not_run_until_it_is_settled(prompt, monkeypatch):
    from hypervisor.migration.protocol import Departure
    from hypervisor.migration.source import UnsettledError
    from hypervisor.repl.commands import migration

    class Handover:
        address = "tcp:127.0.0.1:1"
        state = Departure.State.IN_DOUBT

        def settle(self):
            return self.state

        def force(self):
            self.state = Departure.State.OWNER

    def broken(vm, peer, **options):
        raise UnsettledError("the link broke", Handover())

    monkeypatch.setattr(migration, "send", broken)
    say(prompt, "run &", "migrate tcp:127.0.0.1:1")
    assert prompt.state() == "(hv) "
    assert "`settle` it first" in say(prompt, "run")
    assert "`settle` it first" in say(prompt, "step")
    assert "still not settled" in say(prompt, "settle")
    assert "is here" in say(prompt, "settle force")
    assert "reached" in say(prompt, "run 1")
    assert "nothing to settle" in say(prompt, "settle")


def test_the_mode_of_a_migration_is_a_word_before_the_file(prompt, monkeypatch, tmp_path):
    from hypervisor.migration.report import Report
    from hypervisor.repl.commands import migration

    asked = []

    def note(vm, peer, **options):
        asked.append((options["mode"], options["policy"] is prompt.policy))
        return Report()

    monkeypatch.setattr(migration, "send", note)
    files = [tmp_path / "one", tmp_path / "two"]
    say(prompt, f"migrate tcp:127.0.0.1:1 {files[0]}")
    prompt.session.replace(FakeMachine())
    say(prompt, f"migrate tcp:127.0.0.1:1 hybrid {files[1]}")
    assert asked == [("precopy", True), ("hybrid", False)]
    assert all(file.exists() for file in files)


def test_a_guest_that_is_missing_pages_gets_them_by_settling(prompt, vm, monkeypatch):
    from hypervisor.migration.protocol import Departure
    from hypervisor.migration.source import OwingError
    from hypervisor.repl.commands import migration

    class Handover:
        address = "tcp:127.0.0.1:1"
        state = Departure.State.OWING

        def settle(self):
            self.state = Departure.State.GONE
            return self.state

    def broken(vm, peer, **options):
        raise OwingError("the link broke", Handover())

    monkeypatch.setattr(migration, "send", broken)
    say(prompt, "run &", "migrate tcp:127.0.0.1:1 postcopy")
    assert not vm.closed, "its pages are needed"
    assert "`settle` it first" in say(prompt, "run")
    assert say(prompt, "settle") == "the guest is at tcp:127.0.0.1:1\n"
    assert vm.closed


def test_a_guest_that_moved_away_is_not_here(prompt, vm, monkeypatch):
    from hypervisor.migration.report import Report
    from hypervisor.repl.commands import migration

    monkeypatch.setattr(migration, "send", lambda vm, peer, **options: Report())
    say(prompt, "run &")
    assert say(prompt, "migrate tcp:127.0.0.1:4444").startswith("at tcp:127.0.0.1:4444: ")
    assert vm.closed
    assert prompt.state() == "(hv: no guest) "
    assert "is at tcp:127.0.0.1:4444 now" in say(prompt, "run")


def test_a_person_at_a_terminal_completes_a_name_and_leaves(prompt, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    prompt.interactive = True
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("dige\t\r")  # Tab completes
        keys.send_text("half a line\x03")  # Ctrl-C drops it
        keys.send_text("console\r")
        assert prompt.interact() is Ending.CONSOLE
        keys.send_text("\x04")  # Ctrl-D leaves
        assert prompt.interact() is Ending.QUIT
    assert f"{0:064x}\n" in prompt.out.getvalue()
    assert "half" not in prompt.out.getvalue()
