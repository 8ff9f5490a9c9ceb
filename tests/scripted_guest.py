"""tern at work, with keys typed at fixed instruction counts: two runs of it must agree in every bit.

Virtual time is the number of instructions, so the script below is the same input on every monitor, and
``vm.digest()`` at a count is one fixed number. ``reference`` finds it by running straight there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from tern_guest import build

from hypervisor.machine import VirtualMachine

MEMORY = 8 << 20

TYPED: dict[int, bytes] = {
    300_000: b"count 200 10 &\n",
    500_000: b"spin 25 &\n",
    700_000: b"sum 1; echo $?\n",
    2_500_000: b"ps; fault null; fault divide segment; echo ",
    # Half a line, and its other half while something else runs.
    2_900_000: b"typed in two pieces\n",
    3_000_000: b"mem; sum 1; fault stack pointer\n",
    5_500_000: b"count 3 5; sleep 20; spin -n 60000\n",
    6_000_000: b"kill 2; ps; uptime\x7f\x7fme\n",
}
"""Instruction count -> what is typed then. A mix of system calls, faults, timers, fork and exec."""

LAST = 9_000_000
"""The script has something to do up to here."""

Run = Callable[[VirtualMachine, int], None]


def boot(**options: object) -> VirtualMachine:
    return VirtualMachine.boot(build(), memory=MEMORY, **options)  # type: ignore[arg-type]


def straight(vm: VirtualMachine, count: int) -> None:
    stop = vm.run(until=count)
    assert (stop.reason, vm.instructions) == ("limit", count), stop


def advance(vm: VirtualMachine, to: int, run: Run = straight) -> VirtualMachine:
    """Run to an instruction count, typing what the script says on the way; ``run`` does each leg."""
    while vm.instructions < to:
        leg = min([at for at in TYPED if at > vm.instructions] + [to])
        run(vm, leg)
        assert vm.instructions == leg
        if leg in TYPED:
            vm.console.send(TYPED[leg])
    return vm


def moments(seed: int, number: int, last: int = LAST) -> list[int]:
    """Pseudo-random instruction counts, in order; at one of them something is typed."""
    chosen = random.Random(seed)
    return sorted([*chosen.sample(range(1, last), number - 1), chosen.choice(sorted(TYPED))])


class Reference:
    """The twin that never moves: what it is like at the given counts."""

    def __init__(self, counts: Iterable[int]) -> None:
        self.digest: dict[int, str] = {}
        self.console: dict[int, bytes] = {}
        with boot() as vm:
            for count in sorted(set(counts)):
                advance(vm, count)
                self.digest[count] = vm.digest()
                self.console[count] = bytes(vm.console.output)

    def check(self, vm: VirtualMachine) -> None:
        """Is ``vm`` what the twin was at the same count? The message names the parts that differ."""
        count = vm.instructions
        if vm.digest() != self.digest[count]:
            with boot() as twin:
                parts = difference(vm, advance(twin, count))
            raise AssertionError(f"at instruction {count:,} these differ from the twin's: {', '.join(parts)}")


def difference(one: VirtualMachine, other: VirtualMachine) -> list[str]:
    """Names of the parts in which two machines differ."""
    ones, others = one.state_digest(), other.state_digest()
    return [name for name in ones if ones[name] != others.get(name)]
