"""How long it takes from a file to the guest's first instruction, its RAM being full of noise."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hypervisor.bench import Record, record
from hypervisor.machine import VirtualMachine
from hypervisor.repl import machines
from hypervisor.state import files

PIECE = 1 << 20
USED = 8 << 20
"""Bytes that the guest's own things are in; all above is noise."""
LIMIT = 20
"""Milliseconds."""


def lazy_restore(quick: bool) -> Iterator[Record]:
    """Records in ms, of a lazy restore beside one that reads all of the file first."""
    memory = (64 if quick else 512) << 20
    noise = random.Random(1).randbytes(PIECE)  # noqa: S311
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "guest")
        with VirtualMachine.boot("tern", memory=memory, append="quiet") as vm:
            vm.run_until("tern$ ")
            for at in range(USED, memory, PIECE):
                vm.ram[at : at + PIECE] = noise
            files.save(vm, path)
        rounds = 1 if quick else 5
        for name, lazy in (("lazy", True), ("all of it first", False)):
            yield record(
                f"{memory >> 20} MiB, from load to the first instruction, {name}",
                statistics.median(_milliseconds(path, lazy) for _ in range(rounds)),
                "ms",
                target=f"<= {LIMIT}" if lazy else None,
            )


def _milliseconds(path: Path, lazy: bool) -> float:
    began = time.perf_counter()
    vm, _ = machines.resume(path, lazy=lazy)
    with vm:
        vm.run(instructions=1)
        return (time.perf_counter() - began) * 1e3
