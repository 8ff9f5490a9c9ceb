"""Commands about moving the guest to another monitor."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, cast

from hypervisor.errors import HostError, UsageError
from hypervisor.migration.postcopy import MODES, Mode
from hypervisor.migration.protocol import Departure
from hypervisor.migration.report import Report
from hypervisor.migration.source import OwingError, SendError, UnsettledError, send
from hypervisor.repl import machines
from hypervisor.repl.expressions import number
from hypervisor.repl.kinds import HostPort, Path, Word, choice, count
from hypervisor.repl.prompt import Prompt
from hypervisor.repl.registry import command

Force = Annotated[str, choice("force", "force")]
HowToMigrate = Annotated[str, choice("MODE", *MODES)]

SLOWEST = 1 << 20
"""Bytes per second: a destination must not think that we are gone."""


@command("migrate")
def migrate(prompt: Prompt, peer: HostPort, mode: HowToMigrate = "precopy", path: Path | None = None) -> str:
    """Move the guest to another monitor, which waits for it (`hv run --incoming`).

    A running guest goes on meanwhile, but for the last moment; if it cannot be moved, it runs on here.
    Ctrl-C calls it off. If the link breaks in the very handover, the guest stays stopped until `settle` has asked
    who has it. FILE gets the report, as JSON: `hv plot` draws it.

    precopy: all of RAM goes first, in rounds; `policy` says when the guest is stopped for the rest. postcopy: the guest
    goes first, and its pages follow, those that it waits for before the others; this monitor is needed until
    the last one has gone. hybrid: one round, and then the same; an exact guest outlives the loss of this
    monitor then. Example: migrate tcp:127.0.0.1:4444 hybrid
    """
    session = prompt.session
    vm = session.single_vm
    path = path or prompt.report
    report = Report()
    try:
        with machines.migration_progress("migrating", report, prompt.terminal, path) as advance:
            send(
                vm,
                peer,
                mode=cast("Mode", mode),
                policy=prompt.policy if mode == "precopy" else None,
                progress=advance,
                report=report,
                credentials=prompt.credentials,
            )
    except SendError as error:
        if isinstance(error, UnsettledError | OwingError):
            session.stop()
            session.unsettled = error.handover
        if path is not None:
            with contextlib.suppress(HostError):  # what happened to the guest is the more important message
                report.write(path)
        raise
    session.stop()  # its run ends by itself: this waits for it
    prompt.show_output()
    session.replace(None, f"the guest is at {peer} now")
    if path is not None:
        report.write(path)
    return f"at {peer}: {summary(report)}"


def summary(report: Report) -> str:
    """A finished migration in a line."""
    ram = report.ram
    asked = f", {ram.postcopy_requests:,} asked for" if "postcopy" in report.phases else ""
    return (
        f"{ram.transferred:,} bytes in {report.total_time:.0f} ms, downtime {report.downtime:.1f} ms "
        f"({ram.dirty_sync_count} rounds: {ram.duplicate:,} pages zero, {ram.normal:,} sent{asked})"
    )


@command("policy")
def policy(prompt: Prompt, name: Word = "", value: Word = "") -> str:
    """Show when a migration stops the guest, or set one of these limits.

    downtime-limit: stop it when the rest takes so many ms. most-rounds: after so many rounds at last. rate:
    bytes per second that the first round may send, `off` for no limit; each further round may send as much
    as the guest writes to, and `increment` more, up to `top-rate`.
    """
    if name:
        if name not in LIMITS:
            raise UsageError(f"{name!r} is no limit; there are: {', '.join(LIMITS)}")
        limit = LIMITS[name]
        prompt.policy = dataclasses.replace(prompt.policy, **{limit.field: limit.read(value)})
    return "\n".join(
        f"{shown:<15} {limit.show(getattr(prompt.policy, limit.field))}" for shown, limit in LIMITS.items()
    )


def _rate(text: str) -> int:
    rate = number(text, 1000)
    if not SLOWEST <= rate < 1 << 40:
        raise UsageError(f"{text!r}: at least {SLOWEST:,} bytes per second are expected")
    return rate


def _shown_rate(rate: float | None) -> str:
    return "off" if rate is None else f"{rate:,.0f} bytes/s"


class Limit(NamedTuple):
    """One of the policy's fields, as people read and write it."""

    field: str
    read: Callable[[str], Any]
    show: Callable[[Any], str]


LIMITS = {
    "downtime-limit": Limit(
        "downtime_limit", lambda text: count(text) / 1000, lambda limit: f"{limit * 1000:g} ms"
    ),
    "most-rounds": Limit("most_rounds", count, str),
    "rate": Limit("rate", lambda text: None if text == "off" else _rate(text), _shown_rate),
    "increment": Limit("increment", _rate, _shown_rate),
    "top-rate": Limit("top_rate", _rate, _shown_rate),
}


@command("settle")
def settle(prompt: Prompt, force: Force = "") -> str:
    """After a handover that broke: ask the other monitor which of the two has the guest.

    If it has it, but not all of its pages, they are sent. `settle force` decides without asking that it is here. Only for one who knows that it does not run
    there: two monitors running one guest is what the whole protocol prevents. A guest whose pages were
    still on their way is here as it was when it left.
    """
    session = prompt.session
    handover = session.unsettled
    if handover is None:
        raise UsageError("there is nothing to settle")
    if force:
        handover.force()
        state = handover.state
    else:
        state = handover.settle()
    if state in (Departure.State.IN_DOUBT, Departure.State.OWING):
        return "still not settled"
    session.unsettled = None
    if state is Departure.State.GONE:
        session.replace(None, f"the guest is at {handover.address} now")
        return f"the guest is at {handover.address}"
    return "the guest is here and may run"
