"""No stream of random bytes, run as kernel, as user or as virtual-8086 code, brings the monitor down.

They run in processes of their own: a crash inside libunicorn ends the process, and is reported with the
seed of the stream that was running. See hostile_streams.py.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hypervisor.techniques import TECHNIQUES

PROGRAM = Path(__file__).with_name("hostile_streams.py")
WORKERS = 2
ENOUGH = 900
"""Seconds after which a worker is said to hang."""
RUN_ON = 710_087
"""This stream and that 24 later run over the end of a page whose neighbour was never accessed."""


def run_streams(tmp_path: Path, first: int, count: int, *options: str) -> None:
    """Run streams on all processors and fail with every worker's complaints."""
    share = -(-count // WORKERS)
    workers = []
    for number in range(WORKERS):
        progress, output = tmp_path / f"progress{number}", tmp_path / f"output{number}"
        begin = first + number * share
        command = [
            sys.executable,
            str(PROGRAM),
            "--first",
            str(begin),
            "--count",
            str(min(share, first + count - begin)),
        ]
        environment = dict(
            os.environ, PYTHONPATH=os.pathsep.join((str(PROGRAM.parents[1]), str(PROGRAM.parent)))
        )
        with output.open("wb") as sink:
            process = subprocess.Popen(
                [*command, "--progress", str(progress), *options],
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        workers.append((process, progress, output))
    complaints = []
    for process, progress, output in workers:
        try:
            status: int | str = process.wait(ENOUGH)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = "timeout"
        if status != 0:
            lines = output.read_text(errors="replace").splitlines()
            seeds = [line for line in lines if line.startswith("seed ")]
            last = progress.read_text().strip() if progress.exists() else "none"
            complaints.append(f"status {status}, last seed {last}\n" + "\n".join(seeds or lines[-20:]))
    assert not complaints, "\n".join(complaints)


@pytest.mark.smoke
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_streams_of_random_bytes_start(tmp_path, technique):
    run_streams(tmp_path, 0, 100, "--technique", technique)


@pytest.mark.slow
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_streams_of_random_bytes(tmp_path, technique):
    run_streams(tmp_path, 0, 20_000 if technique == "trap" else 2_000, "--technique", technique)


@pytest.mark.slow
def test_streams_of_random_bytes_under_nested_paging(tmp_path):
    run_streams(tmp_path, 0, 2_000, "--technique", "guest", "--paging", "nested")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2724, 10849])
def test_code_runs_on_in_a_page_that_its_guest_has_unmapped(tmp_path, seed):
    """Without a flush, and where an instruction is hooked."""
    run_streams(tmp_path, seed, 1, "--technique", "guest", "--paging", "nested")


@pytest.mark.fuzz
@pytest.mark.parametrize("technique", [name for name in TECHNIQUES if name != "trap"])
def test_twenty_thousand_streams_of_random_bytes(tmp_path, technique):
    run_streams(tmp_path, 0, 20_000, "--technique", technique)


@pytest.mark.slow
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_some_streams_end_in_the_same_state_however_they_are_disturbed(tmp_path, technique):
    run_streams(tmp_path, RUN_ON, 30, "--disturbed", "--technique", technique)


@pytest.mark.fuzz
def test_twenty_thousand_streams_of_random_bytes_under_nested_paging(tmp_path):
    run_streams(tmp_path, 0, 20_000, "--technique", "guest", "--paging", "nested")


@pytest.mark.fuzz
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_streams_end_in_the_same_state_however_they_are_disturbed(tmp_path, technique):
    run_streams(tmp_path, 0, 600, "--disturbed", "--technique", technique)


@pytest.mark.fuzz
def test_fresh_streams_of_random_bytes(tmp_path):
    end = time.monotonic() + float(os.environ.get("HV_FUZZ_SECONDS", "60"))
    while time.monotonic() < end:
        first = random.SystemRandom().randrange(1 << 40)
        for technique in TECHNIQUES:
            run_streams(tmp_path, first, 1000, "--technique", technique)
            run_streams(
                tmp_path, first, 200, "--disturbed", "--instructions", "500", "--technique", technique
            )
