"""tern's selftest, on QEMU's ISA PC and here."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from tern_guest import Run, build, exit_status, run_on_qemu

from hypervisor.machine import VirtualMachine

LIMIT = 3_000_000_000


def run_here(typed: str, clock: str = "exact", memory: int = 16) -> Run:
    with VirtualMachine.boot(build(), memory=memory << 20, clock=clock, append="quiet") as vm:
        vm.console.send(typed.encode())
        stop = vm.run(instructions=LIMIT) if clock == "exact" else vm.run()
        assert stop.reason == "exit", (stop, bytes(vm.console.output[-500:]))
        return Run(bytes(vm.console.output), exit_status(stop.status))


def results(run: Run) -> dict[str, str]:
    """Check -> what was printed about it."""
    return dict(re.findall(r"^([a-z-]+): (ok|skipped.*|FAILED.*)$", "\n".join(run.lines), re.MULTILINE))


def assert_passed(run: Run, skipped: Counter[str]) -> None:
    told = results(run)
    assert {name: answer for name, answer in told.items() if answer.startswith("FAILED")} == {}
    assert Counter(answer for answer in told.values() if answer != "ok") == skipped
    assert list(told.values()).count("ok") >= 60
    assert "ALL TESTS PASSED" in run.lines
    assert run.lines[-3:-1] == ["0", "tern$ poweroff"]


SESSION = "selftest\necho $?\npoweroff\n"
WITHOUT_DISK = Counter({"skipped: no disk": 13, "skipped: no fxsr option": 1})


@pytest.mark.qemu
def test_it_passes_on_qemu() -> None:
    assert_passed(run_on_qemu(SESSION), WITHOUT_DISK)


@pytest.mark.qemu
def test_it_passes_on_qemu_with_sse() -> None:
    run = run_on_qemu(SESSION, "quiet fxsr", "-cpu", "pentium3")
    assert_passed(run, Counter({"skipped: no disk": 13}))


@pytest.mark.parametrize("clock", ["exact", "wall"])
def test_it_passes_here(clock: str) -> None:
    assert_passed(run_here(SESSION, clock), WITHOUT_DISK)
