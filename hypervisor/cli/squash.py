"""`hv squash`: one file of a saved guest and of those that it stands on."""

from __future__ import annotations

import argparse
from pathlib import Path

from hypervisor.cli.command import Command, Option
from hypervisor.errors import UsageError
from hypervisor.repl import machines
from hypervisor.state import files


def run(options: argparse.Namespace) -> int:
    """Status 0 if OUTPUT was written."""
    if options.file is None or options.output is None:
        raise UsageError("squash: FILE and OUTPUT are needed")
    with machines.progress("squashing", machines.stderr_if_terminal()) as advance:
        summary = files.squash(options.file, options.output, progress=advance)
    print(f"{options.output}: {summary.length:,} bytes")
    return 0


COMMAND = Command(
    name="squash",
    summary="make one file of a saved guest's increments",
    run=run,
    options=(
        Option(
            ("file",), "the newest file of a chain, as `save FILE increment` wrote it", Path, metavar="FILE"
        ),
        Option(("output",), "the file to write; it may be one of the chain", Path, metavar="OUTPUT"),
    ),
    slow_examples=("hv squash tuesday.hv tuesday-whole.hv",),
    text="OUTPUT holds the same bytes as if the guest had been saved whole, and needs no other file.",
)
