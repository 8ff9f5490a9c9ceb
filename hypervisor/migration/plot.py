"""A report as a picture: the rounds, as in the paper, and the writable working set over time.

The upper graph is that of Clark et al. (NSDI 2005, figures 8 to 10): a bar for each round, as wide as it took
and as high as its transfer rate, the rate at which the guest wrote to memory meanwhile, and the
downtime at the end. The lower one has a row for each round and shows where in RAM the pages lie that must be
sent again. SVG is text, so the picture needs no library.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from hypervisor.errors import StateError
from hypervisor.migration.report import COLUMNS, Report, Round

WIDTH: Final = 960
LEFT, RIGHT, TOP = 80, 30, 60
GRAPH: Final = 260
ROW: Final = 14
GAP: Final = 90
"""Between the graphs; pixels, all of these."""
MOST_ROWS: Final = 64
"""Of the heat map; of more rounds, the last are shown."""

INNER: Final = WIDTH - LEFT - RIGHT
SENT, DIRTIED, STOPPED = "#7aa6da", "#c0392b", "#e8a33d"


def svg(report: Report) -> str:
    """The picture. Raises StateError if the report has no round to show."""
    if not report.rounds:
        raise StateError("the report has no rounds to draw: the guest stood still, or nothing was sent")
    rows = report.rounds[-MOST_ROWS:]
    height = TOP + GRAPH + GAP + ROW * len(rows) + 60
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(LEFT, 24, _title(report), size=15),
        *_rounds(report),
        *_heat(report, rows, TOP + GRAPH + GAP),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _title(report: Report) -> str:
    ram = report.ram
    return (
        f"{ram.total >> 20} MiB in {report.total_time:,.0f} ms, downtime {report.downtime:,.1f} ms; "
        f"{ram.transferred / 1e6:,.1f} MB sent in {ram.dirty_sync_count} rounds"
        + (f"; stopped: {report.stop_reason}" if report.stop_reason else "")
    )


def _rounds(report: Report) -> Iterator[str]:
    """Transfer rate and dirty rate over time."""
    last = report.rounds[-1]
    end = max(report.total_time, last.start + last.time, 0.001)
    rates = [one.mbps for one in report.rounds]
    dirtied = [one.dirty_rate * one.page_size * 8e-6 for one in report.rounds]
    top = max(*rates, *dirtied, 1.0) * 1.1
    base = TOP + GRAPH

    def x(time: float) -> float:
        return LEFT + time / end * INNER

    def y(rate: float) -> float:
        return base - rate / top * GRAPH

    stopped = max(end - report.downtime, 0.0)
    yield _box(x(stopped), TOP, x(end) - x(stopped), GRAPH, STOPPED, 0.35)
    for one, rate, dirt in zip(report.rounds, rates, dirtied, strict=True):
        begin, wide = x(one.start), max(x(one.start + one.time) - x(one.start), 1)
        yield _box(begin, y(rate), wide, base - y(rate), SENT, 0.8, _said(one))
        yield (
            f'<line x1="{begin:.1f}" y1="{y(dirt):.1f}" x2="{begin + wide:.1f}" y2="{y(dirt):.1f}" '
            f'stroke="{DIRTIED}" stroke-width="2.5"/>'
        )
        if wide > 50:
            yield _text(begin + wide / 2, y(rate) - 5, f"{one.bytes / 1e6:,.1f} MB", anchor="middle", size=10)
    yield f'<path d="M{LEFT},{TOP} V{base} H{WIDTH - RIGHT}" fill="none" stroke="black"/>'
    for n in range(5):
        yield _text(LEFT - 6, y(top * n / 4) + 4, f"{top * n / 4:,.0f}", anchor="end")
        yield _text(x(end * n / 4), base + 16, f"{end * n / 4:,.0f}", anchor="middle")
    yield _text(WIDTH / 2, base + 34, "time since the migration began, ms", anchor="middle")
    yield _text(LEFT, TOP - 12, "Mbit/s:")
    for at, colour, what in (
        (130, SENT, "sent, by round"),
        (260, DIRTIED, "written to by the guest"),
        (440, STOPPED, "downtime"),
    ):
        yield _box(at, TOP - 22, 12, 12, colour, 1)
        yield _text(at + 18, TOP - 12, what)


def _said(one: Round) -> str:
    mix = one.encodings
    return (
        f"round {one.number}: {one.pages:,} pages, {one.bytes:,} bytes in {one.time:,.1f} ms; zero {mix.zero:,}, "
        f"raw {mix.normal:,}, delta {mix.delta:,}, copied {mix.copied:,}, unchanged {mix.unchanged:,}; "
        f"skipped {one.skipped:,}; {one.dirty_pages:,} pages written to"
    )


def _heat(report: Report, rows: list[Round], top: int) -> Iterator[str]:
    """Where the pages are that were written to: a row for each round."""
    pages = max(report.ram.total // max(report.ram.page_size, 1), 1)
    most = max(pages / COLUMNS, 1)
    cell = INNER / COLUMNS
    yield _text(
        LEFT, top - 12, "pages written to during each round, by their place in RAM (dark: all of them)"
    )
    for row, one in enumerate(rows):
        at = top + row * ROW
        if row % max(len(rows) // 16, 1) == 0:
            yield _text(LEFT - 6, at + ROW - 3, str(one.number), anchor="end", size=10)
        yield _box(LEFT, at, INNER, ROW - 1, "#f0f0f0", 1)
        for column, count in enumerate(one.heat[:COLUMNS]):
            if count > 0:
                yield _box(
                    LEFT + column * cell, at, cell + 0.2, ROW - 1, DIRTIED, 0.15 + 0.85 * min(count / most, 1)
                )
    bottom = top + ROW * len(rows) + 16
    for n in range(5):
        where = report.ram.total * n // 4
        yield _text(LEFT + INNER * n / 4, bottom, f"{where / (1 << 20):g} MiB", anchor="middle")


def _box(x: float, y: float, wide: float, high: float, colour: str, opacity: float, title: str = "") -> str:
    body = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(wide, 0):.1f}" height="{max(high, 0):.1f}" '
        f'fill="{colour}" fill-opacity="{opacity:.2f}">{body}</rect>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
