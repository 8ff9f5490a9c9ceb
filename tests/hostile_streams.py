"""Streams of random bytes as guests: they are run here one after the other, and what must hold is checked.

A stream is named by one number, its seed. From it follow the bytes, where they lie, the registers, the
page tables, the descriptor tables and what the machine's timer does. tests/test_hostile_streams.py starts
this program in processes of their own, since what it looks for may end them. One stream is repeated by

    PYTHONPATH=. python tests/hostile_streams.py --first SEED --count 1
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import threading
import traceback
from pathlib import Path

from guests_kit import MEMORY
from stream_maker import Maker

from hypervisor.machine import Snapshot, VirtualMachine
from hypervisor.monitor.loop import Stop
from hypervisor.paging.forms import DEFAULT_FORM, FORMS, NESTED
from hypervisor.state.model import MachineConfig
from hypervisor.techniques import TECHNIQUES

REASONS = frozenset(("limit", "exit", "reset", "triple-fault", "halted", "idle", "error"))
"""Why a random guest may stop. ``error`` is the monitor's refusal of what it does not offer."""
REFUSALS = ("it wants to go to real mode",)

PATIENCE = 30
"""Seconds that a stream may take before it is said to hang; the slowest take about one."""

FILLERS = (b"\xf4", b"\xcc", b"\x41", b"\xf4", b"\x41", b"\xf4", b"\x41", b"\x00")
"""What all the rest of memory holds: HLT, INT3, INC ECX, or ADD [EAX], AL."""

LIFE = 200
"""Streams that share a machine. The more places of port instructions it knows, the longer translation takes."""


class Field:
    """A machine on which streams run one after the other, beside a bystander whose memory nobody may touch."""

    def __init__(self, technique: str, paging: str = DEFAULT_FORM) -> None:
        self.vm = VirtualMachine.create(MachineConfig(MEMORY, technique), paging=paging)
        self.vm.vcpu.set_control(0x11, 0, 0)
        state = self.vm.capture()
        self.starts = {filler: Snapshot(state, filler * MEMORY) for filler in set(FILLERS)}
        self.bystander = VirtualMachine.create(MachineConfig(1 << 20))
        self.bystander.ram[:] = bytes(range(256)) * 4096
        self.fixed = self.fixed_frames()
        self.others = hashlib.sha1(self.bystander.ram).digest()

    def close(self) -> None:
        self.vm.close()
        self.bystander.close()

    def fixed_frames(self) -> bytes:
        """The monitor's memory that never changes while a guest runs."""
        frames = self.vm.memory.monitor_view()
        return bytes(frames[0x1000:0x1070]) + bytes(frames[0x4000:0x6000]) + bytes(frames[0x8000:0xBFF8])

    def check(self) -> None:
        """What must hold whenever no guest runs."""
        self.check_tables()
        assert self.fixed_frames() == self.fixed, "the monitor's own frames have changed"
        assert hashlib.sha1(self.bystander.ram).digest() == self.others, "another machine's RAM has changed"

    def check_tables(self) -> None:
        """The tables that the CPU walks let the guest reach its RAM and the frame of ones, and nothing else."""
        nested = self.vm.paging_form == NESTED
        frames = self.vm.memory.monitor_view().cast("I" if nested else "Q")
        size = frames.itemsize
        for frame in self.vm.paging.tables_in_use():
            for entry in frames[frame // size : (frame + 4096) // size]:
                if entry & 1:
                    target = entry & 0x000FFFFFFFFFF000
                    ram = 16 << 20 <= target < (16 << 20) + MEMORY
                    assert ram or (target == 0x5000 and not entry & 2), f"an entry is {entry:#x}"

    def reset(self, seed: int) -> None:
        """The machine as the stream finds it."""
        self.vm.load_snapshot(self.starts[FILLERS[seed % len(FILLERS)]])
        self.vm.console.output.clear()
        Maker(seed).place(self.vm)

    def run(self, until: int) -> Stop:
        """Run on; raises AssertionError if it ends in a way that is not documented."""
        watchdog = threading.Timer(PATIENCE, self.vm.request_stop)
        watchdog.start()
        try:
            stop = self.vm.run(until=until)
        finally:
            watchdog.cancel()
        assert stop.reason != "stop", f"it hangs after {self.vm.instructions} instructions"
        assert stop.reason in REASONS, stop
        assert stop.reason != "error" or stop.detail.startswith(REFUSALS), stop
        assert self.vm.instructions <= until, self.vm.instructions
        return stop

    def stream(self, seed: int, instructions: int) -> str:
        """Run one stream; returns why it ended."""
        self.reset(seed)
        stop = self.run(instructions)
        self.check()
        return stop.reason

    def disturbed_stream(self, seed: int, instructions: int) -> str:
        """Run one stream straight, and again with stops and without shadow tables at random moments: equal?"""
        self.reset(seed)
        stop = self.run(instructions)
        straight = self.outcome(stop)
        self.reset(seed)
        moments = random.Random(~seed)
        stride = moments.choice((1, 2, 7, 30, 100))
        while True:
            pause = self.vm.instructions + moments.randrange(1, 2 * stride)
            stop = self.run(min(pause, instructions))
            if stop.reason != "limit" or self.vm.instructions >= instructions:
                break
            if moments.random() < 0.3:
                self.vm.paging.drop()
        disturbed = self.outcome(stop)
        differ = [name for name in straight if straight[name] != disturbed[name]]
        assert not differ, f"differs when disturbed (stride {stride}): {', '.join(differ)}"
        return stop.reason

    def outcome(self, stop: Stop) -> dict[str, str]:
        return {"reason": repr(stop), "instructions": str(self.vm.instructions), **self.vm.state_digest()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=int, default=0, help="seed of the first stream")
    parser.add_argument("--count", type=int, default=1000, help="how many streams")
    parser.add_argument("--instructions", type=int, default=2000, help="how long each may run")
    parser.add_argument("--technique", choices=tuple(TECHNIQUES), default="trap")
    parser.add_argument("--paging", choices=tuple(FORMS), default=DEFAULT_FORM)
    parser.add_argument("--disturbed", action="store_true", help="run each twice and compare")
    parser.add_argument("--progress", type=Path, help="a file that always holds the seed that is running")
    arguments = parser.parse_args()
    field = Field(arguments.technique, arguments.paging)
    reasons: dict[str, int] = {}
    failed = 0
    old = 0
    for seed in range(arguments.first, arguments.first + arguments.count):
        old += 1
        if old > LIFE:
            field.close()
            field = Field(arguments.technique, arguments.paging)
            old = 1
        if arguments.progress:
            arguments.progress.write_text(f"{seed}\n")
        try:
            run = field.disturbed_stream if arguments.disturbed else field.stream
            reason = run(seed, arguments.instructions)
        except Exception as error:
            traceback.print_exc()
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)  # noqa: T201
            failed += 1
            old = LIFE
        else:
            reasons[reason] = reasons.get(reason, 0) + 1
    print(f"{arguments.count} streams, {failed} failed; they ended by {reasons}")  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
