"""Commands that run the guest and stop it."""

from __future__ import annotations

from typing import Annotated

from hypervisor.errors import AddressError, UsageError
from hypervisor.repl.kinds import Background, Count, choice
from hypervisor.repl.prompt import Prompt
from hypervisor.repl.registry import command
from hypervisor.repl.session import describe

_POLL = 0.02
"""Seconds between two looks for new console output while the guest runs in the foreground."""

Switch = Annotated[str, choice("off", "off")]


@command("run", "r", "continue", "c")
def run(prompt: Prompt, count: Count | None = None, background: Background = "") -> str:
    """Run the guest, for COUNT instructions if said.

    Its console is shown here until it stops; Ctrl-C stops it. With & it runs in the background, and the
    prompt stays usable.
    """
    vm = prompt.session.stopped_vm
    return _go(prompt, None if count is None else vm.instructions + count, background)


@command("until", "u")
def until(prompt: Prompt, count: Count, background: Background = "") -> str:
    """Run until COUNT instructions have been retired since boot.

    Virtual time is the number of instructions, so this is a moment that can be returned to: the same
    guest with the same inputs is in the same state there, on any monitor.
    """
    return _go(prompt, count, background)


def _go(prompt: Prompt, target: int | None, background: str) -> str:
    prompt.session.start(until=target)
    if background:
        return ""
    _stay(prompt)
    return where(prompt)


def _stay(prompt: Prompt) -> None:
    """Show the console of a guest in the foreground until it stops. Ctrl-C stops it.

    It runs in its thread even so: only then does this one hear of Ctrl-C while the guest loops.
    """
    session = prompt.session
    try:
        while session.wait(_POLL) is None and session.running:
            prompt.show_output()
    except KeyboardInterrupt:
        session.stop()
    prompt.show_output()


def where(prompt: Prompt) -> str:
    """Why and where the guest stands still."""
    session = prompt.session
    return f"[{describe(session.last_stop)}, at instruction {session.vm.instructions:,}]"


@command("stop", "halt")
def stop(prompt: Prompt) -> str:
    """Stop a guest that runs in the background."""
    if not prompt.session.running and prompt.session.last_stop is None:
        raise UsageError("the guest is not running")
    prompt.session.stop()
    prompt.show_output()
    return where(prompt)


@command("wait")
def wait(prompt: Prompt) -> str:
    """Wait until a guest in the background stops by itself; Ctrl-C gives up waiting.

    It goes on running then. A script uses this to await a breakpoint or the guest's end.
    """
    session = prompt.session
    while session.wait(_POLL) is None and session.running:
        prompt.show_output()
    prompt.show_output()
    return where(prompt)


@command("step", "s")
def step(prompt: Prompt, count: Count = 1) -> str:
    """Execute one instruction, or COUNT, and show where the guest is then.

    An interrupt that is due is delivered first, as on hardware: the step then ends behind the first
    instruction of its handler.
    """
    session = prompt.session
    vm = session.ready_vm
    session.start(until=vm.instructions + count)
    _stay(prompt)
    lines = [f"{vm.instructions:>14,}  {vm.position:#010x}  "]
    try:
        for _, code, text in vm.disassemble(vm.position, 1):
            lines.append(f"{code.hex(' '):<24} {text}")
    except AddressError as error:
        lines.append(f"(its next instruction cannot be shown: {error})")
    if session.last_stop is None or session.last_stop.reason != "limit":
        lines.append("\n" + where(prompt))
    return "".join(lines)


@command("breakpoint", "b")
def breakpoint_(prompt: Prompt, count: Count | None = None, switch: Switch = "") -> str:
    """Stop every run at instruction COUNT; `breakpoint COUNT off` forgets it.

    Without COUNT: show the breakpoints, or forget them all (`breakpoint off`).
    """
    points = prompt.session.breakpoints
    if switch:
        points.intersection_update(() if count is None else points - {count})
    elif count is not None:
        points.add(count)
    return "".join(f"at instruction {point:,}\n" for point in sorted(points)) or "no breakpoints"
