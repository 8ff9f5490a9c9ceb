"""Debian's own Linux, unmodified, under ``guest`` and ``patch``. `make linux-images` fetches the images."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from live_move import move

from hypervisor.machine import VirtualMachine
from hypervisor.migration.postcopy import MODES, Mode
from hypervisor.paging.forms import DEFAULT_FORM, NESTED
from hypervisor.repl import machines
from hypervisor.state.model import MachineConfig

IMAGES = Path(__file__).parents[1] / "build" / "linux"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (IMAGES / "vmlinuz").is_file(), reason="build/linux is not there: `make linux-images`"
    ),
]
COMMAND_LINE = "console=ttyS0 noapic nolapic nokaslr"
PROMPT = "linux# "
WORK = b"for i in 1 2 3 4; do dd if=/dev/zero bs=4k count=1024 2>&- | md5sum; done; echo do''ne\n"
MEANWHILE = 5_000_000
"""Instructions that it may go on for while it is copied."""
LONGEST_BOOT = 8_000_000_000
"""Instructions; it takes a little over three thousand million."""


def boot(technique: str, paging: str = DEFAULT_FORM) -> VirtualMachine:
    vm = VirtualMachine.boot(
        IMAGES / "vmlinuz",
        initrd=IMAGES / "initrd",
        memory=64 << 20,
        technique=technique,
        append=COMMAND_LINE,
        paging=paging,
    )
    stop = vm.run_until(PROMPT, instructions=LONGEST_BOOT)
    assert stop.reason == "text", (stop, bytes(vm.console.output[-500:]))
    return vm


def twin_of(vm: VirtualMachine) -> VirtualMachine:
    """One that stays."""
    snapshot = vm.snapshot()
    twin = VirtualMachine.create(snapshot.state.config)
    twin.load_snapshot(snapshot)
    return twin


def hop(vm: VirtualMachine, technique: str, mode: Mode) -> VirtualMachine:
    """Move a guest while it runs, through a socket, into a machine of this process with another technique."""

    def make(config: MachineConfig, disks: Iterable[Path]) -> VirtualMachine:
        return VirtualMachine.create(machines.under(config, technique), disks)

    return move(vm, vm.instructions + MEANWHILE, mode=mode, make=make)[0]


@pytest.mark.parametrize("technique", ["guest", "patch"])
def test_it_boots_to_its_shell_and_answers(technique: str) -> None:
    with boot(technique) as vm:
        vm.console.send(b"echo answer $((6 * 7)); cat /proc/cmdline\n")
        stop = vm.run_until(f"answer 42\r\n{COMMAND_LINE}\r\n", instructions=200_000_000)
        assert stop.reason == "text", bytes(vm.console.output[-500:])


@pytest.mark.soak
def test_it_comes_to_the_same_state_under_patch_and_under_nested_paging() -> None:
    """They set the guest's Accessed and Dirty bits alike, at least up to the prompt."""
    with boot("guest") as traced, boot("patch") as patch, boot("guest", NESTED) as nested:
        assert traced.instructions == patch.instructions == nested.instructions
        assert traced.digest() == patch.digest() == nested.digest()


def test_sums_are_right_while_it_moves_between_techniques() -> None:
    """Ten live hops under way, and nobody can tell: not from the sums, the console or the state."""
    size = 4 << 20
    expected = hashlib.md5(bytes(size)).hexdigest()
    vm = boot("guest")
    told = b""
    ran = 0
    with twin_of(vm) as twin:
        for each in (vm, twin):
            each.console.send(WORK)
        said = len(vm.console.output)
        dice = random.Random(5)
        for number in range(10):
            vm.run(instructions=dice.randrange(1_000_000, 20_000_000))
            before = vm.instructions
            arrived = hop(vm, ("patch", "guest")[number % 2], dice.choice(MODES))
            told += vm.console.output
            vm.close()
            vm = arrived
            ran += vm.instructions > before
        with vm:
            assert vm.run_until("done\r\n", instructions=2_000_000_000).reason == "text"
            told += vm.console.output
            twin.run(until=vm.instructions)
            assert told[said:] == twin.console.output
            assert vm.digest() == twin.digest()
    assert ran >= 8, "it stood still while it was copied"
    after = told.split(b"do''ne", 1)[1]
    assert after.split()[:9] == [expected.encode(), b"-"] * 4 + [b"done"]
