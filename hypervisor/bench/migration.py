"""Live migration between two processes over loopback, here and by QEMU TCG: downtime, total time, bytes sent.

The guest is tern with the same command line, memory and time to warm up on both, the figures are those that
each reports itself, and nothing limits the bandwidth. In between: how fast RAM that cannot be made any
shorter is captured and restored, beside memcpy, and sent, beside a plain `send` through such a socket; how
long a guest in a file takes to its first instruction; and what it costs a guest to have a backup.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hypervisor import images
from hypervisor.bench import Record, record
from hypervisor.bench._migration import QEMU, Figures, Ours, Pair, Qemu
from hypervisor.bench._replication import replication
from hypervisor.bench._restore import lazy_restore
from hypervisor.bench._throughput import throughput
from hypervisor.errors import HostError

ROUNDS: Final = 5
MEMORIES: Final = (128 << 20, 512 << 20)
WARM: Final = 3.0
"""Seconds that the guest runs before it is moved."""
SHORTEST: Final = 1.0
"""Milliseconds: QEMU's clock is no finer, and says 0 for less."""
PAGES_PER_MB: Final = 256

WORKLOADS: Final[dict[str, str]] = {
    "idle": "quiet",
    "primes": f'quiet run="{"primes 10000000; " * 30}"',
    **{
        f"dirty {rate} MB/s in {size} MiB": f'quiet run="dirty {rate * PAGES_PER_MB} {size * PAGES_PER_MB}"'
        for rate in (1, 10, 100)
        for size in (4, 16, 64)
    },
}


def measure(quick: bool) -> Iterator[Record]:
    """Throughput, restoring from a file, replication, then each workload in each size of memory."""
    if shutil.which(QEMU) is None:
        raise HostError(f"bench migration: {QEMU} is needed for comparison (Debian: qemu-system-x86)")
    yield from throughput(quick)
    yield from lazy_restore(quick)
    yield from replication(quick)
    image = images.find("tern")
    for memory in MEMORIES[:1] if quick else MEMORIES:
        for name, words in list(WORKLOADS.items())[:: 6 if quick else 1]:
            ours, theirs = alternate(image, memory, words, 1 if quick else ROUNDS)
            what = f"{memory >> 20} MiB, {name}"
            for figure, unit in (("downtime", "ms"), ("total", "ms"), ("transferred", "bytes")):
                yield record(
                    f"{what}: {figure}",
                    _median(ours, figure),
                    unit,
                    reference=max(_median(theirs, figure), SHORTEST),
                    reference_name="QEMU TCG",
                    target="<= 1",
                )


def alternate(image: Path, memory: int, words: str, rounds: int) -> tuple[list[Figures], list[Figures]]:
    """The figures of so many migrations, ours and QEMU's in turn."""
    ours: list[Figures] = []
    theirs: list[Figures] = []
    for _ in range(rounds):
        for kind, figures in ((Ours, ours), (Qemu, theirs)):
            figures.append(once(kind, image, memory, words))
    return ours, theirs


def once(kind: type[Ours | Qemu], image: Path, memory: int, words: str) -> Figures:
    """One migration of a fresh guest."""
    with tempfile.TemporaryDirectory() as folder:
        pair: Pair = kind(Path(folder), image, memory, words)
        with pair:
            time.sleep(WARM)
            return pair.migrate()


def _median(figures: list[Figures], name: str) -> float:
    return statistics.median(float(getattr(one, name)) for one in figures)
