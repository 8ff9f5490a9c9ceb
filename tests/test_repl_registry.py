"""Help, completion and checks follow from how a command is declared; bad input is one clear line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.errors import HypervisorError, UsageError
from hypervisor.repl import commands
from hypervisor.repl.expressions import evaluate
from hypervisor.repl.kinds import (
    Address,
    Background,
    Count,
    Format,
    GuestAddress,
    HostPort,
    Layout,
    Path,
    Text,
    Word,
    kind_of,
    size,
)
from hypervisor.repl.registry import REGISTRY, Registry

LAYOUT = Layout()
NAMES = {"eax": 1, "esp": 0x1000, "esi": 3, "eip": 0x2000}


@pytest.fixture
def registry():
    registry = Registry()

    @registry.command("poke", "p")
    def poke(prompt, address: Address, count: Count = 4, background: Background = "") -> str:
        """Poke about.

        More of it.
        """

    @registry.command("peek")
    def peek(prompt, layout: Format = LAYOUT, *, address: Address) -> str:
        """Peek."""

    @registry.command("say")
    def say(prompt, name: Word, text: Text = "") -> str:
        """Say TEXT."""

    return registry


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("0x10", 16),
        ("0b101", 5),
        ("1_000", 1000),
        ("4k", 4096),
        ("2M", 2 << 20),
        ("eax", 1),
        ("$esp+8", 0x1008),
        ("%ESP - 4", 0xFFC),
        ("1+2*3", 7),
        ("(1+2)*3", 9),
        ("10-2-3", 5),
        ("7/2", 3),
        ("-1", -1),
        ("~0", -1),
        ("1<<12|1", 4097),
        ("esp&~0xff^1", 0x1001),
        ("--5", 5),
    ],
)
def test_expressions_have_the_value_that_python_gives_them(text, value):
    assert evaluate(text, NAMES) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1+",
        "(1",
        "1)",
        "0x",
        "0xg",
        "12z",
        "ebx",
        "1/0",
        "1<<-1",
        "1 2",
        "a.b",
        "esp(",
        "'1'",
        "(" * 2000,
    ],
)
def test_what_is_no_expression_is_refused_in_one_line(text):
    with pytest.raises(UsageError) as caught:
        evaluate(text, NAMES)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="0123456789abcdefx+-*/&|^~()<> espi$%_km", max_size=40))
def test_no_expression_does_anything_but_evaluate_or_complain(text):
    with contextlib.suppress(UsageError):
        assert isinstance(evaluate(text, NAMES), int)


@given(st.text(max_size=60))
def test_no_line_does_anything_but_parse_or_complain(line):
    with contextlib.suppress(HypervisorError):
        REGISTRY.parse(line, NAMES)
    list(REGISTRY.complete(line, NAMES))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("esp", GuestAddress("gva", 0x1000)),
        ("gva:esp+8", GuestAddress("gva", 0x1008)),
        ("GPA:0x100000", GuestAddress("gpa", 0x100000)),
        ("hpa:0x1_0000_0000", GuestAddress("hpa", 1 << 32)),
        ("gva:eax-2", GuestAddress("gva", 0xFFFFFFFF)),
        ("gva:0xfffffffc+8", GuestAddress("gva", 4)),
    ],
)
def test_addresses_carry_their_kind_and_linear_ones_wrap(text, expected):
    assert kind_of(Address).read(text, NAMES) == expected


@pytest.mark.parametrize("text", ["gpa:-1", "hpa:1<<40", "xyz:1", ":1", "gva:", "gva:1<<60"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError):
        kind_of(Address).read(text, NAMES)


def test_counts_are_decimal_and_sizes_binary():
    assert kind_of(Count).read("2m", {}) == 2_000_000
    assert size("2m") == 2 << 20


@pytest.mark.parametrize("text", ["0", "-1", "x", "1<<3", "0x8000000000000000", ""])
def test_what_is_no_count_is_refused(text):
    with pytest.raises(UsageError):
        kind_of(Count).read(text, NAMES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/16xw", Layout(16, "x", 4)),
        ("/4wx", Layout(4, "x", 4)),
        ("/s", Layout(1, "s", 4)),
        ("/i", Layout(1, "i", 4)),
        ("/8b", Layout(8, "x", 1)),
        ("/3g", Layout(3, "x", 8)),
        ("/", Layout(1, "x", 4)),
    ],
)
def test_formats_are_those_of_gdb(text, expected):
    assert kind_of(Format).read(text, {}) == expected


@pytest.mark.parametrize("text", ["16xw", "/xx", "/bw", "/0x", "/q", "/70000", "/xwb", "/-1"])
def test_what_is_no_format_is_refused(text):
    with pytest.raises(UsageError):
        kind_of(Format).read(text, {})


def test_a_peer_is_read_as_the_migration_reads_it():
    assert str(kind_of(HostPort).read("tcp:[::1]:4444", {})) == "tcp:[::1]:4444"
    for wrong in ("127.0.0.1:1", "tcp:h", "tcp:h:x", "tcp:h:65536", "udp:h:1"):
        with pytest.raises(UsageError):
            kind_of(HostPort).read(wrong, {})


@pytest.mark.parametrize("text", ["0", "-1", "12x", ""])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError):
        size(text)


def test_usage_and_help_follow_from_the_signature(registry):
    poke = registry.find("poke")
    assert poke.usage == "poke ADDRESS [COUNT] [&]"
    assert (poke.summary, poke.text, poke.aliases) == ("Poke about.", "More of it.", ("p",))
    assert registry.find("peek").usage == "peek [/FORMAT] ADDRESS"


def test_arguments_become_values_of_their_kinds(registry):
    _, values = registry.parse("poke gpa:0x10 5", NAMES)
    assert values == {"address": GuestAddress("gpa", 16), "count": 5, "background": ""}


def test_a_word_that_does_not_fit_is_tried_on_the_next_parameter_that_may_be_left_out(registry):
    assert registry.parse("poke 1 &", NAMES)[1] == {
        "address": GuestAddress("gva", 1),
        "count": 4,
        "background": "&",
    }
    assert registry.parse("peek esp", NAMES)[1]["layout"] == Layout()


@pytest.mark.parametrize("line", ["peek/4xb esp", "peek /4xb esp", "peek   /4xb   esp "])
def test_a_format_may_follow_the_name_at_once(registry, line):
    assert registry.parse(line, NAMES)[1] == {
        "layout": Layout(4, "x", 1),
        "address": GuestAddress("gva", 0x1000),
    }


def test_the_rest_of_the_line_is_taken_as_typed(registry):
    assert registry.parse("say bob it's  'fine'", {})[1] == {"name": "bob", "text": "it's  'fine'"}


def test_quotes_hold_a_word_together(registry):
    assert registry.parse("say 'bob and ann' hello", {})[1] == {"name": "bob and ann", "text": "hello"}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("poke", "ADDRESS is missing: poke ADDRESS"),
        ("poke ebx", "no register or number"),
        ("poke 1 2 & 3", "is too much"),
        ("poke 1 zero", "'zero' is not a number"),
        ("peek /4xb", "ADDRESS is missing"),
        ("say 'x", "a quote is not closed"),
        ("nothing", "is no command"),
        ("xyz 1", "is no command"),
    ],
)
def test_a_line_that_makes_no_sense_is_told_why(registry, line, complaint):
    with pytest.raises(UsageError) as caught:
        registry.parse(line, NAMES)
    assert complaint in str(caught.value)


def test_a_beginning_is_enough_and_an_alias_wins_over_beginnings(registry):
    assert registry.find("pe").name == "peek"
    assert registry.find("p").name == "poke"


def test_a_beginning_of_several_names_lists_them(registry):
    registry.command("poker")(lambda prompt: None)
    with pytest.raises(UsageError, match=r"may be poke, poker"):
        registry.find("pok")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("po", ["poke"]),
        ("", ["peek", "poke", "say"]),
        ("poke g", ["gva:", "gpa:"]),
        ("poke gva:es", ["gva:esp", "gva:esi"]),
        ("poke esp+e", ["esp+eax", "esp+esp", "esp+esi", "esp+eip"]),
        ("poke esp 5 ", ["&"]),
        ("nothing ", []),
    ],
)
def test_completion_follows_from_the_signature(registry, line, expected):
    assert list(registry.complete(line, NAMES)) == expected


def test_files_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saves").mkdir()
    (tmp_path / "saves/one.hv").touch()
    (tmp_path / ".hidden").touch()
    kind = kind_of(Path)
    assert list(kind.complete("", {})) == ["saves/"]
    assert list(kind.complete("saves/o", {})) == ["saves/one.hv"]
    assert list(kind.complete("no/such/", {})) == []


def test_a_parameter_without_a_kind_is_a_defect_told_at_once():
    with pytest.raises(TypeError, match="carries no kind"):

        @Registry().command("x")
        def x(prompt, number: int) -> str: ...


def test_two_commands_of_one_name_are_a_defect_told_at_once(registry):
    with pytest.raises(TypeError, match="two commands"):

        @registry.command("other", "p")
        def other(prompt) -> str: ...


def test_every_command_of_the_prompt_explains_itself_in_a_line():
    assert commands
    for entry in REGISTRY:
        assert entry.summary.endswith("."), entry.name
        assert len(entry.summary) < 100, entry.name
