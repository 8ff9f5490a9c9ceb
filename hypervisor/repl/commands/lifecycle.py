"""Commands about the machine as a whole: what it is, keeping it, moving it, going back."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

from hypervisor.errors import UsageError
from hypervisor.migration.protocol import Departure
from hypervisor.migration.source import UnsettledError, send
from hypervisor.repl import machines
from hypervisor.repl.commands.execution import where
from hypervisor.repl.kinds import HostPort, Path, Word, choice
from hypervisor.repl.prompt import Prompt
from hypervisor.repl.registry import command
from hypervisor.state import files

if TYPE_CHECKING:
    from hypervisor.devices.image import DiskFile

Force = Annotated[str, choice("force", "force")]

_FIRST = "default"
"""The snapshot's name if none is said."""


@command("info")
def info(prompt: Prompt) -> str:
    """Show what this machine is and how it stands."""
    session = prompt.session
    vm = session.vm
    config = vm.config
    lines = {
        "identity": vm.identity,
        "epoch": vm.epoch,
        "memory": f"{config.memory >> 10:,} KiB",
        "technique": config.technique,
        "clock": config.clock,
    }
    for disk in config.disks:
        mode = ", persistent" if disk.persistent else ""
        lines[f"disk {config.disks.index(disk)}"] = f"{disk.name}, {disk.sectors:,} sectors{mode}"
    if session.running:
        lines["state"] = "running"
    else:
        lines["state"] = where(prompt).strip("[]")
    if session.breakpoints:
        lines["breakpoints"] = ", ".join(f"{point:,}" for point in sorted(session.breakpoints))
    if session.snapshots:
        lines["snapshots"] = ", ".join(session.snapshots)
    return "\n".join(f"{name:<12} {value}" for name, value in lines.items())


@command("devices")
def devices(prompt: Prompt, name: Word = "") -> str:
    """List the devices, or show what one of them holds."""
    states = prompt.session.stopped_vm.capture().devices
    if not name:
        return "\n".join(f"{device:<12} version {state.version}" for device, state in states.items())
    if name not in states:
        raise UsageError(f"{name!r} is no device; there are: {', '.join(states)}")
    return "\n".join(f"{field:<20} {shown(value)}" for field, value in states[name].fields.items())


def shown(value: object) -> str:
    """A field's value in one line, long ones cut short."""
    if isinstance(value, bytes):
        text = value[:32].hex(" ") + (f" ... ({len(value)} bytes)" if len(value) > 32 else "")
        return text or "empty"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value} ({value:#x})" if value > 9 else str(value)
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + " ..."


@command("digest")
def digest(prompt: Prompt) -> str:
    """Show the digest of everything the guest can ever observe: equal digests, equal machines."""
    return str(prompt.session.stopped_vm.digest())


@command("save")
def save(prompt: Prompt, path: Path) -> str:
    """Write the guest to FILE, to be resumed by `load`, by `hv run --load`, on any host.

    An old file of that name is replaced at once, or not at all.
    """
    vm = prompt.session.stopped_vm
    with machines.progress("saving", prompt.terminal) as advance:
        summary = files.save(vm, path, progress=advance)
    return f"{path}: {summary.length:,} bytes, at instruction {vm.instructions:,}"


@command("load")
def load(prompt: Prompt, path: Path) -> str:
    """Resume the guest in FILE in place of this one, which ends.

    Nothing happens to this one before the whole file has been checked. It must have had the same disks.
    """
    session = prompt.session
    with contextlib.ExitStack() as held:
        disks: tuple[DiskFile, ...] = ()
        if session.present:
            old = session.stopped_vm  # complains before the file is read, not after
            held.enter_context(old.disks.lent())
            disks = old.disks.files
        vm = machines.load(path, show=prompt.terminal, disks=disks)
    session.replace(vm)
    return f"{path}: at instruction {vm.instructions:,}"


@command("migrate")
def migrate(prompt: Prompt, peer: HostPort) -> str:
    """Move the guest to another monitor, which waits for it (`hv run --incoming`).

    A running guest goes on meanwhile, but for the last moment; if it cannot be moved, it runs on here. If
    the link breaks in the very handover, it stays stopped until `settle` has asked who has it.
    """
    session = prompt.session
    try:
        with machines.progress("migrating", prompt.terminal) as advance:
            report = send(session.sure_vm, peer, progress=advance, credentials=prompt.credentials)
    except UnsettledError as error:
        session.stop()
        session.unsettled = error.handover
        raise
    session.stop()  # its run ends by itself: this waits for it
    prompt.show_output()
    session.replace(None, f"the guest is at {peer} now")
    return (
        f"at {peer}: {report.ram.transferred:,} bytes in {report.total_time:.0f} ms, "
        f"downtime {report.downtime:.1f} ms ({report.ram.dirty_sync_count} rounds: "
        f"{report.ram.duplicate:,} pages zero, {report.ram.normal:,} sent)"
    )


@command("settle")
def settle(prompt: Prompt, force: Force = "") -> str:
    """After a handover that broke: ask the other monitor which of the two has the guest.

    `settle force` decides without asking that it is here. Only for one who knows that it does not run
    there: two monitors running one guest is what the whole protocol prevents.
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
    if state is Departure.State.IN_DOUBT:
        return "still not settled"
    session.unsettled = None
    if state is Departure.State.GONE:
        session.replace(None, f"the guest is at {handover.address} now")
        return f"the guest is at {handover.address}"
    return "the guest is here and may run"


@command("snapshot")
def snapshot(prompt: Prompt, name: Word = _FIRST) -> str:
    """Keep the guest as it is now, in memory, for `restore`."""
    session = prompt.session
    session.snapshots[name] = session.stopped_vm.snapshot()
    return f"{name}: at instruction {session.vm.instructions:,}"


@command("restore")
def restore(prompt: Prompt, name: Word = _FIRST) -> str:
    """Go back to a snapshot. It stays, and may be gone back to again."""
    session = prompt.session
    vm = session.stopped_vm
    if name not in session.snapshots:
        raise UsageError(f"{name!r} is no snapshot; there are: {', '.join(session.snapshots) or 'none'}")
    vm.load_snapshot(session.snapshots[name])
    session.last_stop = None
    return f"at instruction {vm.instructions:,}"
