"""`hv analyze`: which instructions trap, which are silently wrong, and which leak, from experiment."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from hypervisor.cli.command import Command, Option

if TYPE_CHECKING:
    from rich.table import Table

    from hypervisor.analysis.instructions import Finding

COLOURS = {"traps": "green", "innocuous": "dim"}


def run(options: argparse.Namespace) -> int:
    if options.sie:
        return compare_state_descriptions(json=options.json)
    # Opening the CPU's library takes time.
    from hypervisor.analysis.instructions import RINGS, analyze  # noqa: PLC0415

    findings = list(analyze())
    if options.json:
        print_json(findings)
        return 0
    table = empty_table(
        "what each instruction does in a ring, with nothing intercepted",
        *("instruction", *(f"ring {ring}" for ring in RINGS), "SVM intercept", "class", "verdict"),
    )
    for found in findings:
        colour = COLOURS.get(found.verdict, "red")
        rings = (found.rings[ring] for ring in RINGS)
        table.add_row(found.form, *rings, found.intercept, class_of(found), f"[{colour}]{found.verdict}")
    show(table)
    holes = [found for found in findings if found.sensitive and not found.privileged]
    print(f"{len(holes)} instructions are sensitive and not privileged: {', '.join(f.name for f in holes)}.")
    uncovered = [found.name for found in holes if found.intercept == "none"]
    print(
        f"No SVM intercept covers {', '.join(uncovered)}; in guest mode the ring that they see is the right one."
    )
    print("IN and OUT ought to trap above IOPL; this emulated CPU leaves the check out.")
    return 0


def class_of(found: Finding) -> str:
    """Popek and Goldberg's words for it."""
    if not found.sensitive:
        return "innocuous"
    return "sensitive, privileged" if found.privileged else "sensitive"


def compare_state_descriptions(*, json: bool) -> int:
    from hypervisor.analysis import sie  # noqa: PLC0415

    if json:
        print_json([row._asdict() for row in sie.ROWS])
        return 0
    table = empty_table(
        "S/370's interpretive execution beside SVM", "", "SIE's state description", "SVM's VMCB", "here"
    )
    for row in sie.ROWS:
        table.add_row(*row)
    show(table)
    return 0


def print_json(records: object) -> None:
    import msgspec  # noqa: PLC0415

    print(msgspec.json.format(msgspec.json.encode(records), indent=2).decode())


def empty_table(title: str, *headings: str) -> Table:
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left", show_lines=False)
    for heading in headings:
        table.add_column(heading)
    return table


def show(table: Table) -> None:
    from rich.console import Console  # noqa: PLC0415

    # A pipe has no width of its own; rich colours only a terminal.
    Console(width=None if sys.stdout.isatty() else 160).print(table)


COMMAND = Command(
    name="analyze",
    summary="execute every sensitive instruction in every ring, and tell what traps and what does not",
    run=run,
    options=(
        Option(
            ("--sie",), "compare SIE's state description with SVM's VMCB instead", default=False, switch=True
        ),
        Option(("--json",), "print records instead of a table", default=False, switch=True),
    ),
    examples=("hv analyze", "hv analyze --sie", "hv analyze --json"),
    text=(
        "Popek and Goldberg's condition, tried on the bare emulated CPU. `leaks`: tells a program what is the\n"
        "system's; `silently wrong`: does or tells another thing than in ring 0, without a trap. The guest\n"
        "`holes` shows each of them misleading a kernel: hv run holes --technique trap."
    ),
)
