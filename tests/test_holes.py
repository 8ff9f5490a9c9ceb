"""The instructions that x86 gets wrong: they mislead a kernel under ``trap``, and under no other technique.

guests/holes prints what each of them tells; on QEMU, where its kernel is in ring 0, that is the truth.
"""

from __future__ import annotations

import subprocess

import pytest
from port_script import MISSING
from tern_guest import GUESTS, build

from hypervisor.machine import VirtualMachine
from hypervisor.techniques import TECHNIQUES

MISLEADING = {
    *("pushf after cli: IF", "popf: IOPL", "popf after sti: IF"),
    *("sgdt: base", "sgdt: limit", "sidt: base", "sidt: limit", "sldt", "str", "smsw"),
    *("lar", "lsl", "verr", "verw"),
    *("mov from cs", "mov from ss", "push cs", "push ss"),
}
"""The lines that are wrong under ``trap``. The far transfers and INT fault there, and so are right."""
LINES = 21


@pytest.fixture(scope="module")
def kernel():
    build()
    return GUESTS / "build" / "holes.elf"


def lines(console: bytes) -> dict[str, str]:
    told = dict(line.rsplit(": ", 1) for line in console.decode().splitlines())
    assert len(told) == LINES
    return told


def here(kernel, technique: str, clock: str = "exact") -> dict[str, str]:
    with VirtualMachine.boot(kernel, technique=technique, clock=clock) as vm:
        stop = vm.run()
        assert (stop.reason, stop.status) == ("exit", 1)
        return lines(vm.console.output)


@pytest.fixture(scope="module")
def truth(kernel) -> dict[str, str]:
    command = ["qemu-system-i386", "-M", "isapc", "-nodefaults", "-display", "none", "-serial", "stdio"]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-kernel", str(kernel)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    return lines(done.stdout)


@pytest.mark.qemu
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
@pytest.mark.parametrize("clock", ["exact", "wall"])
@pytest.mark.parametrize("technique", sorted(set(TECHNIQUES) - {"trap"}))
def test_they_tell_the_truth_under_this_technique(kernel, truth, technique, clock):
    assert here(kernel, technique, clock) == truth


@pytest.mark.qemu
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_they_mislead_a_kernel_under_trap(kernel, truth):
    told = here(kernel, "trap")
    assert {name for name in told if told[name] != truth[name]} == MISLEADING
