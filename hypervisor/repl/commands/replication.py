"""The command about the guest's backup."""

from __future__ import annotations

from typing import Annotated

from hypervisor.errors import UsageError
from hypervisor.migration.replication.primary import Replication
from hypervisor.repl import machines
from hypervisor.repl.kinds import Count, HostPort, choice
from hypervisor.repl.prompt import Prompt
from hypervisor.repl.registry import command

Off = Annotated[str, choice("off", "off")]

EPOCHS = 20
"""A second, if nobody says how many."""
MOST_EPOCHS = 1000


@command("replicate")
def replicate(prompt: Prompt, peer: HostPort | None = None, epochs: Count = EPOCHS, switch: Off = "") -> str:
    """Keep a backup of the guest at another monitor, which takes over if this one dies.

    The other one is started as `hv run --backup ADDRESS`. The guest runs on; COUNT times a second what it has become
    goes to the backup. What it prints, writes to a persistent disk, or ends with, is held until the backup has the
    state in which that is done. `replicate off` dismisses the backup; `replicate` alone shows how it stands. To quit
    leaves the guest to the backup. For example, 40 times a second: `replicate tcp:127.0.0.1:4445 40`.
    """
    session = prompt.session
    replication = session.replication
    if switch:
        if replication is None or not replication.active:
            raise UsageError("the guest has no backup")
        replication.dismiss()
        return f"the backup at {replication.address} is dismissed"
    if peer is None:
        if replication is None:
            return "the guest has no backup"
        report = replication.report
        why = f" ({report.reason})" if report.reason else ""
        return f"{replication.address}: {report.status}{why}; {report.summary()}"
    if epochs > MOST_EPOCHS:
        raise UsageError(f"{epochs} epochs a second: at most {MOST_EPOCHS} are possible")
    replication = Replication(
        session.single_vm, peer, epochs=epochs, fence=prompt.fence, credentials=prompt.credentials
    )
    with machines.progress("synchronizing", prompt.terminal) as advance:
        replication.start(advance)
    session.replication = replication
    return f"the backup at {peer} holds the guest, {epochs} epochs a second"
