"""`hv bench`: runs benchmarks by name, and shows each figure beside its reference and its target."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hypervisor import bench
from hypervisor.bench._chart import svg
from hypervisor.cli.command import Command, Option
from hypervisor.errors import HostError

if TYPE_CHECKING:
    from rich.table import Table


def run(options: argparse.Namespace) -> int:
    """A missed target is shown and is no failure: benchmarks inform, tests decide."""
    if options.list or options.name is None:
        for name in bench.names():
            print(f"{name:<12} {bench.summary(name)}")
        return 0
    names = bench.names() if options.name == "all" else [options.name]
    measures = [(name, bench.find(name)) for name in names]
    if options.chart is not None:
        draw(options.chart, "hv bench", [])  # what cannot be written is told before an hour of measuring
    records: list[bench.Record] = []
    for name, measure in measures:
        records += measure(options.quick) if options.json else show(name, measure(options.quick))
    if options.json:
        import msgspec  # noqa: PLC0415

        encoded = msgspec.json.format(msgspec.json.encode(records), indent=2)
        print(encoded.decode())
    if options.chart is not None:
        draw(options.chart, f"hv bench {options.name}", records)
    return 0


def draw(path: Path, title: str, records: list[bench.Record]) -> None:
    """Raises HostError if the chart cannot be written."""
    try:
        path.write_text(svg(title, records))
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror or error}") from None


def show(name: str, records: Iterator[bench.Record]) -> list[bench.Record]:
    """A table that is printed when it is complete; until then, what was measured last. Returns the records."""
    from rich.console import Console  # noqa: PLC0415

    done = []
    with Console(stderr=True).status(f"{name}: measuring") as status:
        for record in records:
            done.append(record)
            status.update(f"{name}: {record.name} {figure(record.value)} {record.unit}")
    # A pipe has no width of its own: do not cut the table down to rich's default of 80 there.
    Console(width=None if sys.stdout.isatty() else 120).print(table(name, done))
    return done


def table(name: str, records: list[bench.Record]) -> Table:
    """The records of one benchmark as people read them."""
    from rich.table import Table  # noqa: PLC0415

    result = Table(title=name, title_justify="left")
    result.add_column("what")
    for heading in ("value", "reference", "ratio", "target"):
        result.add_column(heading, justify="right")
    result.add_column("")
    for record in records:
        reference = ""
        if record.reference is not None:
            reference = f"{figure(record.reference)} {record.unit} {record.reference_name or ''}".strip()
        result.add_row(
            record.name,
            f"{figure(record.value)} {record.unit}",
            reference,
            "" if record.ratio is None else f"{record.ratio:.2f}",
            record.target or "",
            {True: "[green]ok", False: "[red]missed", None: ""}[record.ok],
        )
    return result


def figure(value: float) -> str:
    """Three significant digits, without exponents.

    >>> figure(0.1234), figure(12.34), figure(123456.0)
    ('0.123', '12.3', '123,456')
    """
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.3g}"


COMMAND = Command(
    name="bench",
    summary="measure, beside a reference and a target",
    run=run,
    options=(
        Option(("name",), "a benchmark, or `all`; without it, list them", metavar="NAME"),
        Option(("--quick",), "a few seconds, rough figures", default=False, switch=True),
        Option(("--chart",), "draw the figures, as SVG", Path, metavar="FILE"),
        Option(("--json",), "print records instead of a table", default=False, switch=True),
        Option(("--list",), "list the benchmarks", default=False, switch=True),
    ),
    examples=("hv bench --list",),
    slow_examples=(
        "hv bench traps",
        "hv bench techniques --chart techniques.svg",
        "hv bench all --json >figures.json",
    ),
    text="Each figure is a median of at least five, taken in alternation with its reference on this machine.",
)
