"""Benchmarks: `hv bench NAME`. They print ratios beside a reference and decide no test.

A benchmark is a module of this package with a one-line docstring and a generator

    def measure(quick: bool) -> Iterator[Record]

which yields a record as soon as it has one. ``quick`` asks for a few seconds in all, with figures good
enough to see that the benchmark works. Ours and the reference are measured in the same run, in
alternation (``compare``), so that a busy host slows both.
"""

from __future__ import annotations

import importlib
import pkgutil
import statistics
from collections.abc import Callable, Iterator

from msgspec import Struct

from hypervisor.errors import UsageError

ROUNDS = 5
"""Rounds of alternation; medians of fewer are not worth printing."""


class Record(Struct, frozen=True):
    """One figure. ``ratio`` is ours over the reference; ``target`` limits it, as in ``"<= 1.5"``."""

    name: str
    value: float
    unit: str
    reference: float | None = None
    reference_name: str | None = None
    ratio: float | None = None
    target: str | None = None
    ok: bool | None = None


def record(
    name: str,
    value: float,
    unit: str,
    *,
    reference: float | None = None,
    reference_name: str | None = None,
    target: str | None = None,
) -> Record:
    """A record with its ratio and verdict worked out. Without a reference the target limits the value."""
    ratio = value / reference if reference else None
    judged = value if reference is None else ratio
    ok = None if target is None or judged is None else meets(judged, target)
    return Record(name, value, unit, reference, reference_name, ratio, target, ok)


def meets(figure: float, target: str) -> bool:
    """Is ``figure`` within ``target``, ``"<= X"`` or ``">= X"``?

    >>> meets(1.2, "<= 1.3"), meets(0.9, ">= 0.95")
    (True, False)
    """
    relation, _, limit = target.partition(" ")
    match relation:
        case "<=":
            return figure <= float(limit)
        case ">=":
            return figure >= float(limit)
    raise ValueError(f"a target is '<= X' or '>= X', not {target!r}")


def compare(
    ours: Callable[[], float], reference: Callable[[], float], *, rounds: int = ROUNDS
) -> tuple[float, float]:
    """Medians of both, measured in turn after one unmeasured round of each."""
    ours(), reference()
    pairs = [(ours(), reference()) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def names() -> list[str]:
    """The benchmarks there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find(name: str) -> Callable[[bool], Iterator[Record]]:
    """The ``measure`` of a benchmark; UsageError if there is none of that name."""
    if name not in names():
        raise UsageError(f"bench: {name!r} is no benchmark; there are: {', '.join(names()) or 'none'}, all")
    measure: Callable[[bool], Iterator[Record]] = importlib.import_module(f"{__name__}.{name}").measure
    return measure


def summary(name: str) -> str:
    """The first line of a benchmark's docstring."""
    return (importlib.import_module(f"{__name__}.{name}").__doc__ or "").strip().partition("\n")[0]
