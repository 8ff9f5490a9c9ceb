"""Nothing that a source sends crashes, hangs or swells the destination, or makes it run a guest.

The destination is a process of its own. See hostile_migrations.py, and migration_maker.py for what is sent; and
hostile_followups.py for what follows a handover, or comes to a backup.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("hostile_migrations.py")
FOLLOWUPS = Path(__file__).with_name("hostile_followups.py")
PROGRAMS = pytest.mark.parametrize("program", [PROGRAM, FOLLOWUPS], ids=["migrations", "followups"])
WORKERS = 2
MANY = 100_000


def receive(program: Path, first: int, count: int) -> None:
    """Send those of so many seeds, on all processors, and fail with what went wrong."""
    share = -(-count // WORKERS)
    path = os.pathsep.join((str(program.parents[1]), str(program.parent)))
    workers = [
        subprocess.Popen(
            [sys.executable, str(program), "--first", str(first + n * share), "--count", str(share)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(os.environ, PYTHONPATH=path),
        )
        for n in range(WORKERS)
    ]
    told = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * WORKERS, "\n".join(told)[-5000:]


@PROGRAMS
def test_hostile_streams_are_refused_and_a_good_one_arrives_after_them(program: Path) -> None:
    receive(program, 0, 200)


@pytest.mark.fuzz
@PROGRAMS
def test_a_hundred_thousand_hostile_streams_are_refused(program: Path) -> None:
    for first in range(0, MANY, 5000):
        receive(program, first, 5000)


@pytest.mark.fuzz
@PROGRAMS
def test_fresh_hostile_streams_are_refused(program: Path) -> None:
    end = time.monotonic() + float(os.environ.get("HV_FUZZ_SECONDS", "60"))
    while time.monotonic() < end:
        receive(program, random.SystemRandom().randrange(1 << 40), 1000)
