"""`hv plot`: the report of a migration as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from hypervisor.cli.command import Command, Option
from hypervisor.errors import HostError, UsageError
from hypervisor.migration.plot import svg
from hypervisor.migration.report import read_report


def run(options: argparse.Namespace) -> int:
    """Draw it beside the report, or where --output says."""
    if options.report is None:
        raise UsageError("plot: a report is needed, as `hv run --report FILE` writes it")
    output: Path = options.output or options.report.with_suffix(".svg")
    if output == options.report:
        raise UsageError(f"plot: {output} is the report itself: say where to draw with --output")
    picture = svg(read_report(options.report))
    try:
        output.write_text(picture)
    except OSError as error:
        raise HostError(f"cannot write {output}: {error.strerror or error}") from None
    print(output)
    return 0


COMMAND = Command(
    name="plot",
    summary="draw the report of a migration: its rounds, and where in memory the guest wrote",
    run=run,
    options=(
        Option(
            ("report",),
            "what `hv run --report`, or the prompt's `migrate`, has written",
            Path,
            metavar="FILE",
        ),
        Option(
            ("--output", "-o"), "where to draw (default: FILE with .svg at its end)", Path, metavar="FILE"
        ),
    ),
    slow_examples=("hv plot report.json", "hv plot report.json --output rounds.svg"),
    text="The picture is SVG, which every browser shows; the mouse on a round tells its figures.",
)
