"""`hv analyze` finds by experiment what Robin and Irvine found by reading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hypervisor.analysis import sie
from hypervisor.analysis.instructions import analyze
from hypervisor.cli.main import main

ROBIN_AND_IRVINE = {
    *("SGDT", "SIDT", "SLDT", "SMSW", "PUSHF", "POPF", "LAR", "LSL", "VERR", "VERW"),
    *("POP", "PUSH", "CALL", "JMP", "INT n", "RET", "STR", "MOV"),
}
"""Their seventeen: VERR and VERW are one entry of their list."""
ALSO = {"IRET", "IN", "OUT"}
"""IRET is not in their list, and loses IF as POPF does. That IN and OUT do not trap is this CPU's own."""


@pytest.fixture(scope="module")
def findings():
    return {found.name: found for found in analyze()}


@pytest.mark.smoke
def test_the_seventeen_are_sensitive_and_not_privileged(findings):
    assert {n for n, f in findings.items() if f.sensitive and not f.privileged} == ROBIN_AND_IRVINE | ALSO


def test_what_is_privileged_traps_outside_of_ring_0_and_not_there(findings):
    privileged = {name for name, found in findings.items() if found.privileged}
    assert {
        "CLI",
        "STI",
        "HLT",
        "LGDT",
        "LIDT",
        "LLDT",
        "LTR",
        "LMSW",
        "CLTS",
        "MOV to CR",
        "INVLPG",
    } < privileged
    for name in privileged:
        found = findings[name]
        assert (found.rings, found.verdict) == ({0: "runs", 1: "#GP", 3: "#GP"}, "traps")
        assert found.sensitive


def test_what_only_tells_system_state_leaks_and_what_depends_on_the_ring_is_silently_wrong(findings):
    assert {n for n, f in findings.items() if f.verdict == "leaks"} == {
        "PUSHF",
        "SGDT",
        "SIDT",
        "SLDT",
        "STR",
        "SMSW",
    }
    assert {"POPF", "LAR", "MOV", "PUSH", "POP", "CALL", "JMP", "RET"} < {
        n for n, f in findings.items() if f.verdict == "silently wrong"
    }


def test_ordinary_instructions_are_innocuous(findings):
    assert {n for n, f in findings.items() if not f.sensitive} == {"ADD", "MOV of a register"}


def test_svm_intercepts_what_it_can(findings):
    uncovered = {n for n, f in findings.items() if f.intercept == "none" and f.sensitive}
    assert uncovered == {
        *("LAR", "LSL", "VERR", "VERW", "MOV", "PUSH", "POP", "CALL", "JMP", "RET"),
        *("CLI", "STI", "IN", "OUT"),
    }
    assert findings["POPF"].intercept == "POPF"
    assert findings["SMSW"].intercept == "read of CR0"


def test_json_is_one_record_an_instruction(capsys, findings):
    assert main(["analyze", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["name"] for record in records] == list(findings)
    assert records[0]["rings"]["0"] == "runs"


def test_the_table_counts_the_holes_and_has_no_colours_in_a_pipe(capsys):
    assert main(["analyze"]) == 0
    shown = capsys.readouterr().out
    assert f"{len(ROBIN_AND_IRVINE | ALSO)} instructions are sensitive and not privileged" in shown
    assert "\x1b" not in shown


def test_the_state_descriptions_are_the_same_table_in_the_tutorial(capsys):
    assert main(["analyze", "--sie"]) == 0
    shown = capsys.readouterr().out
    assert all(row.matter in shown for row in sie.ROWS)
    page = Path(__file__).parents[1] / "tutorials" / "what-traps.md"
    assert sie.markdown() in page.read_text()
