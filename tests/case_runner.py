"""Runs cases (see case_maker.py) under the techniques and on QEMU, and compares what came of each.

    PYTHONPATH=. python tests/case_runner.py --count 100000        # from seed 0 on, under all techniques
    PYTHONPATH=. python tests/case_runner.py --first SEED --count 1 --technique guest --show

The second line repeats one case: it shows its instructions, both results, and all memory that differs.
"""

from __future__ import annotations

import argparse
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import capstone
from case_ground import CODE, PLACE, REGISTERS, Case, regions
from case_maker import CaseMaker
from known_differences import explain_hang, explain_memory, explanations
from tern_guest import GUESTS

from hypervisor.machine import VirtualMachine
from hypervisor.techniques import TECHNIQUES

KERNEL = GUESTS / "build" / "batch.elf"
MEMORY = 16 << 20
MAGIC, TO_SERIAL, WITH_MEMORY, MOST_REGIONS, RESULTS = 0x48435442, 1, 2, 8, 0x800000
BATCH = 2000
"""Cases that a machine runs before it is started anew."""
ENOUGH = 100_000
"""Instructions within which every case is done, with what the kernel does for it."""
PROCESSOR = "486,family=5,model=8,stepping=0,+tsc,+msr,+cx8,+cmov,+mmx,+fxsr,+sse,+sse2,+pse"

REGIONS = regions()
NAMES = ("vector", "error", "hidden", *PLACE)
NAMES += (*REGISTERS, "ds_es", "fs_gs", "cr0", "cr2", "cr3", "cr4", "dr6", "dr7")
NAMES += tuple(name for name, _, _ in REGIONS)
RESULT = struct.Struct(f"<{len(NAMES)}I{4 * (MOST_REGIONS - len(REGIONS))}x")

Result = dict[str, int]


def module(cases: Sequence[Case], flags: int) -> bytes:
    """What guests/batch is given."""
    head = 20 + 12 * MOST_REGIONS
    table = memory = b""
    for _, address, contents in REGIONS:
        table += struct.pack("<3I", address, len(contents), head + len(memory))
        memory += contents
    packed = b"".join(case.packed() for case in cases)
    header = struct.pack("<5I", MAGIC, flags, len(cases), head + len(memory), len(REGIONS))
    return header + table.ljust(12 * MOST_REGIONS, b"\0") + memory + packed


def size_of(flags: int) -> int:
    """Bytes that a case's result takes."""
    return RESULT.size + (sum(len(contents) for _, _, contents in REGIONS) if flags & WITH_MEMORY else 0)


@dataclass
class Outcomes:
    """The results of a batch: fewer than cases if the machine did not get through."""

    data: bytes
    size: int
    complaint: str = ""

    def __len__(self) -> int:
        return len(self.data) // self.size

    def reached(self) -> int:
        """The case that it did not get through."""
        return next((n for n in range(len(self)) if not any(self.words(n))), 0)

    def words(self, index: int) -> tuple[int, ...]:
        return RESULT.unpack_from(self.data, index * self.size)

    def memory(self, index: int) -> dict[str, bytes]:
        """Of a batch with memory: the regions afterwards."""
        at = index * self.size + RESULT.size
        found = {}
        for name, _, contents in REGIONS:
            found[name] = self.data[at : at + len(contents)]
            at += len(contents)
        return found


class OnQemu:
    """A batch that runs on QEMU beside us."""

    def __init__(self, directory: Path, cases: Sequence[Case], flags: int = 0) -> None:
        self.size = size_of(flags)
        self.count = len(cases)
        self.output = directory / "results"
        batch = directory / "batch"
        batch.write_bytes(module(cases, flags | TO_SERIAL))
        command = [
            "qemu-system-i386",
            "-M",
            "isapc",
            "-cpu",
            PROCESSOR,
            "-m",
            str(MEMORY >> 20),
            "-nodefaults",
        ]
        command += ["-display", "none", "-monitor", "none", "-no-reboot", "-serial", f"file:{self.output}"]
        command += [
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=0x04",
            "-kernel",
            str(KERNEL),
            "-initrd",
            str(batch),
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def wait(self, seconds: float) -> Outcomes:
        try:
            complaint = self.process.communicate(timeout=seconds)[1].decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            complaint = f"it hung for {seconds} s"
        data = self.output.read_bytes()
        if not complaint and len(data) != self.size * self.count:
            complaint = f"it ended with {self.process.returncode} after {len(data)} bytes"
        return Outcomes(data, self.size, complaint)


def run_here(directory: Path, cases: Sequence[Case], technique: str, flags: int = 0) -> Outcomes:
    batch = directory / f"batch-{technique}"
    batch.write_bytes(module(cases, flags))
    size = size_of(flags)
    with VirtualMachine.boot(KERNEL, memory=MEMORY, technique=technique, modules=[batch]) as vm:
        stop = vm.run(instructions=ENOUGH * (len(cases) + 1))
        complaint = "" if (stop.reason, stop.status) == ("exit", 1) else repr(stop)
        return Outcomes(bytes(vm.ram[RESULTS : RESULTS + size * len(cases)]), size, complaint)


# -------------------------------------------------------------------- comparing


@dataclass
class Difference:
    """A case that came out otherwise than on QEMU, and not for a known reason."""

    case: Case
    technique: str
    fields: frozenset[str]
    ours: Result
    theirs: Result

    def __str__(self) -> str:
        lines = [f"seed {self.case.seed}, {self.technique}: {', '.join(sorted(self.fields))} differ"]
        lines += listing(self.case)
        for name in NAMES:
            mark = "  <--" if self.ours[name] != self.theirs[name] else ""
            lines.append(f"  {name:8} {self.ours[name]:08x} on QEMU {self.theirs[name]:08x}{mark}")
        lines.append(f"again: python tests/case_runner.py --first {self.case.seed} --count 1 --show")
        return "\n".join(lines)


def listing(case: Case) -> list[str]:
    """Where the case begins, and its instructions."""
    mode = "virtual-8086 mode" if case.virtual_8086 else f"ring {case.cpl}"
    lines = [f"  {mode}, {32 if case.big else 16}-bit code, of {', '.join(case.kinds)}"]
    words = [f"{name} {value:x}" for name, value in case.words.items() if value]
    lines.append("  " + " ".join(words))
    lines += [f"  [{at:x}] = {value:08x}" for at, value in case.pokes.items()]
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32 if case.big else capstone.CS_MODE_16)
    decoder.skipdata = True
    for at, _, name, operands in decoder.disasm_lite(case.code + b"\xcd\x40", CODE):
        lines.append(f"    {at:x}  {name} {operands}")
    return lines


class Comparison:
    """Counts what was run, and what known differences it met."""

    def __init__(self, techniques: Sequence[str]) -> None:
        self.techniques = techniques
        self.run: Counter[str] = Counter()
        self.known: Counter[str] = Counter()
        self.fatal = 0
        """Cases that no machine survived: triple faults."""

    def batch(self, first: int, count: int) -> Iterator[Difference]:
        """Run so many cases from a seed on, under all techniques: those with holes everywhere but under ``trap``."""
        for holes in (True, False):
            techniques = [name for name in self.techniques if (name != "trap") == holes]
            if techniques:
                cases = [CaseMaker(seed, holes=holes).make() for seed in range(first, first + count)]
                yield from self.compare(cases, techniques)

    def compare(self, cases: list[Case], techniques: Sequence[str]) -> Iterator[Difference]:
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            there = OnQemu(directory, cases)
            here = {technique: run_here(directory, cases, technique) for technique in techniques}
            theirs = there.wait(5 + len(cases) / 100)
        stuck = {who: found.complaint for who, found in (("QEMU", theirs), *here.items()) if found.complaint}
        if stuck and len(cases) > 1:
            # One of them brings it down: the others still count. If it did so with a result, look for it by halves.
            reached = min((found.reached() for found in here.values() if found.complaint), default=0)
            reached = reached or len(cases) // 2
            for part in (cases[:reached], cases[reached : reached + 1], cases[reached + 1 :]):
                if part:
                    yield from self.compare(part, techniques)
            return
        if stuck:
            self.fatal += 1
            if len(stuck) != 1 + len(here) and not self.explained_hang(cases[0], stuck, theirs, here):
                nothing = dict.fromkeys(NAMES, 0)
                fields = frozenset(f"{who}: {why}" for who, why in stuck.items())
                yield Difference(cases[0], ", ".join(here), fields, nothing, nothing)
            return
        for technique, ours in here.items():
            self.run[technique] += len(cases)
            for index, case in enumerate(cases):
                a, b = ours.words(index), theirs.words(index)
                if a != b:
                    found = self.judge(
                        case, technique, dict(zip(NAMES, a, strict=True)), dict(zip(NAMES, b, strict=True))
                    )
                    if found is not None and not self.explained_by_memory(found):
                        yield found

    def explained_hang(
        self, case: Case, stuck: dict[str, str], theirs: Outcomes, here: dict[str, Outcomes]
    ) -> bool:
        """If it ended on QEMU alone, or everywhere but there: is there a reason?"""
        if list(stuck) not in (["QEMU"], list(here)):
            return False
        ended = here.values() if "QEMU" in stuck else [theirs]
        reasons = {explain_hang(case, dict(zip(NAMES, one.words(0), strict=True))) for one in ended}
        if "" in reasons:
            return False
        self.known.update(reasons)
        return True

    def explained_by_memory(self, difference: Difference) -> bool:
        """If only checksums differ: run the case again, and look at what is in memory."""
        if not difference.fields <= {name for name, _, _ in REGIONS}:
            return False
        ours, theirs = memories(difference.case, difference.technique)
        reasons = (
            {explain_memory(difference.case, name, ours[name], theirs[name]) for name in difference.fields}
            if ours
            else {""}
        )
        if "" in reasons:
            return False
        self.known.update(reasons)
        return True

    def judge(self, case: Case, technique: str, ours: Result, theirs: Result) -> Difference | None:
        left = frozenset(name for name in NAMES if ours[name] != theirs[name])
        for why, fields in explanations(case, ours, theirs):
            if left & fields:
                self.known[why] += 1
                left -= fields
        return Difference(case, technique, left, ours, theirs) if left else None


def memories(case: Case, technique: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The regions of memory after a case, here and on QEMU; nothing if it did not get through."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        there = OnQemu(directory, [case], WITH_MEMORY)
        ours = run_here(directory, [case], technique, WITH_MEMORY)
        theirs = there.wait(60)
    if ours.complaint or theirs.complaint:
        return {}, {}
    return ours.memory(0), theirs.memory(0)


def memory_differences(case: Case, technique: str) -> list[str]:
    """Every word of a case's regions that is not the same in the end."""
    a, b = memories(case, technique)
    return [
        f"  {region} [{address + at:x}] {int.from_bytes(a[region][at : at + 4], 'little'):08x}"
        f" on QEMU {int.from_bytes(b[region][at : at + 4], 'little'):08x}"
        for region, address, contents in REGIONS
        if region in a
        for at in range(0, len(contents), 4)
        if a[region][at : at + 4] != b[region][at : at + 4]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    parser.add_argument("--count", type=int, default=10_000, help="how many cases")
    parser.add_argument("--technique", choices=tuple(TECHNIQUES), action="append", help="all if not given")
    parser.add_argument("--show", action="store_true", help="show every case, and the memory that differs")
    parser.add_argument("--most", type=int, default=20, help="differences to show before giving up")
    arguments = parser.parse_args()
    techniques = arguments.technique or list(TECHNIQUES)
    if arguments.show:
        show(range(arguments.first, arguments.first + arguments.count), techniques)
        return 0
    comparison = Comparison(techniques)
    began, shown = time.monotonic(), 0
    end = arguments.first + arguments.count
    for first in range(arguments.first, end, BATCH):
        for difference in comparison.batch(first, min(BATCH, end - first)):
            print(difference, flush=True)
            shown += 1
        if sys.stderr.isatty():
            done = min(first + BATCH, end) - arguments.first
            print(f"\r{done:,} of {arguments.count:,} cases", end="", file=sys.stderr, flush=True)
        if shown >= arguments.most:
            break
    print(
        f"{dict(comparison.run)} cases in {time.monotonic() - began:.0f} s, {shown} differences; known ones:"
    )
    for why, times in comparison.known.most_common():
        print(f"  {times:8}  {why}")
    return 1 if shown else 0


def show(seeds: range, techniques: Sequence[str]) -> None:
    for seed in seeds:
        for technique in techniques:
            case = CaseMaker(seed, holes=technique != "trap").make()
            comparison = Comparison([technique])
            found = list(comparison.compare([case], [technique]))
            for difference in found:
                print(difference)
                print("\n".join(memory_differences(case, technique)))
            if not found:
                print("\n".join([f"seed {seed}, {technique}: the same", *listing(case)]))
            for why in comparison.known:
                print(f"  known: {why}")


if __name__ == "__main__":
    sys.exit(main())
