"""Nothing that a source sends crashes, hangs or swells the destination, or makes it run a guest.

The destination is a process of its own. See hostile_migrations.py, and migration_maker.py for what is sent.
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
WORKERS = 2
MANY = 100_000


def receive_migrations(first: int, count: int) -> None:
    """Send those of so many seeds, on all processors, and fail with what went wrong."""
    share = -(-count // WORKERS)
    path = os.pathsep.join((str(PROGRAM.parents[1]), str(PROGRAM.parent)))
    workers = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), "--first", str(first + n * share), "--count", str(share)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(os.environ, PYTHONPATH=path),
        )
        for n in range(WORKERS)
    ]
    told = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * WORKERS, "\n".join(told)[-5000:]


def test_hostile_migrations_are_refused_and_a_good_one_arrives_after_them() -> None:
    receive_migrations(0, 200)


@pytest.mark.fuzz
def test_a_hundred_thousand_hostile_migrations_are_refused() -> None:
    for first in range(0, MANY, 5000):
        receive_migrations(first, 5000)


@pytest.mark.fuzz
def test_fresh_hostile_migrations_are_refused() -> None:
    end = time.monotonic() + float(os.environ.get("HV_FUZZ_SECONDS", "60"))
    while time.monotonic() < end:
        receive_migrations(random.SystemRandom().randrange(1 << 40), 1000)
