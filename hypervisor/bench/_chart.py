"""The figures of a benchmark as a picture: a panel for what is measured, in it a bar for each way to do it.

What a record's name says before its last ``: `` is, with the unit, the panel; what follows is the bar. Panels have scales of their own,
from zero, so within one the lengths compare; a line shows the reference. SVG is text, so the picture needs no library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

from hypervisor.bench import Record

COLUMNS: Final = 2
PANEL: Final = 520
LABEL: Final = 110
FIGURE: Final = 80
BAR: Final = 16
HEAD: Final = 44
"""Pixels, all of these."""
COLORS: Final = ("#7aa6da", "#e8a33d", "#7fb77e", "#b58bc6", "#c0392b", "#8a8a8a")
LINE: Final = "#444444"


def svg(title: str, records: Sequence[Record]) -> str:
    """The picture of a benchmark's records, in their order."""
    panels: dict[tuple[str, str], list[Record]] = {}
    for one in records:
        panels.setdefault((one.name.rpartition(": ")[0], one.unit), []).append(one)
    rows = [list(panels.items())[at : at + COLUMNS] for at in range(0, len(panels), COLUMNS)]
    kinds = list(dict.fromkeys(_kind(one) for one in records))
    colors = {kind: COLORS[number % len(COLORS)] for number, kind in enumerate(kinds)}
    body: list[str] = []
    top = 50
    for row in rows:
        for column, ((name, unit), members) in enumerate(row):
            body += _panel(f"{name} ({unit})", members, colors, 20 + column * PANEL, top)
        top += HEAD + BAR * max(len(members) for _, members in row) + 20
    width, height = COLUMNS * PANEL + 20, top
    return "\n".join(
        (
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">'
            ),
            f'<rect width="{width}" height="{height}" fill="white"/>',
            _text(20, 28, title, size=16),
            *body,
            "</svg>\n",
        )
    )


def _panel(
    title: str, members: Sequence[Record], colors: Mapping[str, str], left: int, top: int
) -> Iterator[str]:
    first = members[0]
    # The reference is a line of its own if it is not one of the bars.
    references = [one.reference for one in members if one.reference is not None]
    beside = [] if first.reference_name in {_member(one) for one in members} else references
    longest = max([one.value for one in members] + beside) or 1
    room = PANEL - LABEL - FIGURE - 20
    yield _text(left, top + 14, title, size=13)
    for row, one in enumerate(members):
        at = top + 24 + row * BAR
        length = room * one.value / longest
        color = colors[_kind(one)]
        yield _text(left, at + 11, _member(one))
        yield f'<rect x="{left + LABEL}" y="{at}" width="{length:.1f}" height="{BAR - 4}" fill="{color}"/>'
        yield _text(left + LABEL + length + 5, at + 11, _figure(one.value))
    if beside:
        x = left + LABEL + room * beside[0] / longest
        bottom = top + 24 + BAR * len(members)
        yield f'<line x1="{x:.1f}" y1="{top + 20}" x2="{x:.1f}" y2="{bottom}" stroke="{LINE}" stroke-dasharray="3 2"/>'
        yield _text(x - 20, bottom + 10, f"{first.reference_name} {_figure(beside[0])}")


def _member(one: Record) -> str:
    return one.name.rpartition(": ")[2]


def _kind(one: Record) -> str:
    """What bars of one color have in common."""
    return _member(one).partition(", ")[0]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _text(x: float, y: float, text: str, size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}">{escape(text)}</text>'
