"""Commands about the machine as a whole: what it is, keeping it, moving it, going back."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

from hypervisor.errors import UsageError
from hypervisor.repl import machines
from hypervisor.repl.commands.execution import where
from hypervisor.repl.kinds import Path, Word, choice
from hypervisor.repl.prompt import Prompt
from hypervisor.repl.registry import command
from hypervisor.state.checkpoint import Checkpoints

if TYPE_CHECKING:
    from hypervisor.devices.image import DiskFile
    from hypervisor.machine import VirtualMachine

Increment = Annotated[str, choice("increment", "increment")]
Lazy = Annotated[str, choice("lazy", "lazy")]

_FIRST = "default"
"""The snapshot's name if none is said."""


def _technique(vm: VirtualMachine) -> str:
    """Its name, and under ``auto`` what became of it."""
    if vm.config.technique == vm.technique:
        return vm.technique
    if vm.hole is None:
        return f"{vm.config.technique}: {vm.technique}, no hole was found"
    where = f"{vm.hole.gva:#010x}, found at instruction {vm.hole.instructions:,}"
    return f"{vm.config.technique}: {vm.technique}, since the hole at {where}"


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
        "technique": _technique(vm),
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
def save(prompt: Prompt, path: Path, increment: Increment = "") -> str:
    """Write the guest to FILE, to be resumed by `load`, by `hv run --load`, on any host.

    A guest that runs goes on meanwhile; what is saved is what it was when the command began. With `increment`
    only what has changed since the last `save` or `load` is written; the file needs that one beside it, and
    `hv squash` makes one of both. An old file of that name is replaced at once, or not at all.
    """
    session = prompt.session
    vm = session.sure_vm
    if session.checkpoints is None:
        session.checkpoints = Checkpoints(vm)
    running = session.running
    with machines.progress("saving", prompt.terminal) as advance:
        saved = session.checkpoints.save(path, increment=bool(increment), progress=advance)
    pause = f"; the guest stood still for {1000 * saved.pause:.1f} ms" if running else ""
    return f"{path}: {saved.summary.length:,} bytes, at instruction {saved.instructions:,}{pause}"


@command("load")
def load(prompt: Prompt, path: Path, lazy: Lazy = "") -> str:
    """Resume the guest in FILE in place of this one, which ends.

    With `lazy` it may run at once: its memory is read, and checked, page by page when it is first needed.

    Nothing happens to this one before the whole file has been checked, and the files that it stands on if it
    is an increment. It must have had the same disks.
    """
    session = prompt.session
    with contextlib.ExitStack() as held:
        disks: tuple[DiskFile, ...] = ()
        if session.present:
            session.must_be_single()
            old = session.stopped_vm  # complains before the file is read, not after
            held.enter_context(old.disks.lent())
            disks = old.disks.files
        vm, checkpoints = machines.resume(path, show=prompt.terminal, disks=disks, lazy=bool(lazy))
    session.replace(vm)
    session.checkpoints = checkpoints
    return f"{path}: at instruction {vm.instructions:,}"


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
    session.must_be_single()
    vm = session.stopped_vm
    if name not in session.snapshots:
        raise UsageError(f"{name!r} is no snapshot; there are: {', '.join(session.snapshots) or 'none'}")
    vm.load_snapshot(session.snapshots[name])
    session.last_stop = None
    return f"at instruction {vm.instructions:,}"
