"""`hv run`: a guest on this terminal, from an image, a saved file, or another monitor."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, cast

from hypervisor import images
from hypervisor.cli.command import Command, Option
from hypervisor.cli.terminal import Departure, attach, write_all
from hypervisor.devices.image import parse_disk
from hypervisor.errors import UsageError
from hypervisor.migration.address import ADDRESSES, parse_address
from hypervisor.migration.credentials import Credentials, read_token
from hypervisor.migration.destination import Listener
from hypervisor.migration.replication.backup import Backup
from hypervisor.paging.forms import DEFAULT_FORM, FORMS
from hypervisor.repl import machines
from hypervisor.repl.commands.replication import replicate
from hypervisor.repl.kinds import count, size
from hypervisor.repl.prompt import Ending, Prompt
from hypervisor.repl.protocol import Stop
from hypervisor.repl.session import Session, describe, status_of
from hypervisor.techniques import TECHNIQUES

if TYPE_CHECKING:
    from hypervisor.machine import VirtualMachine
    from hypervisor.state.checkpoint import Checkpoints


DEFAULT_MEMORY = 32 << 20
LINUX_MEMORY = 128 << 20
LINUX = "linux"
"""Stands for the image where --kernel names it."""


def run(options: argparse.Namespace) -> int:
    """Give the guest the terminal until it ends or somebody leaves; its own status becomes ours."""
    check(options)
    token = None if options.token_file is None else read_token(options.token_file)
    credentials = Credentials(options.tls_dir, token, options.insecure)
    with contextlib.ExitStack() as held:
        guest = _guest(options, credentials, held)
        if guest is None:
            return 0
        vm = guest.vm
        session: Session[Any] = Session(vm)
        session.checkpoints = guest.checkpoints
        held.callback(session.close)
        if guest.ended is not None:
            write_all(sys.stdout.fileno(), bytes(vm.console.output))
            return status_of(guest.ended)
        interactive = sys.stdin.isatty() and sys.stdout.isatty()
        vm.pace = interactive if options.pace is None else options.pace
        prompt = Prompt(
            session,
            interactive=interactive,
            credentials=credentials,
            report=options.report,
            fence=options.fence,
        )
        if options.until is not None:
            session.breakpoints.add(options.until)
        at_prompt: bool = options.prompt
        prompted = at_prompt
        if options.replicate is not None:
            print(f"hv: {replicate(prompt, options.replicate, options.epochs)}", file=sys.stderr, flush=True)
        if not at_prompt or guest.runs:
            session.start()
        while True:
            if at_prompt:
                ending = prompt.interact() if prompt.interactive else prompt.script(sys.stdin)
                if ending is Ending.QUIT:
                    return prompt.status if not prompt.interactive else 0
                if not session.running and not session.finished:
                    session.start()
            if interactive:
                print(
                    "hv: the guest's console; Ctrl-A x leaves, Ctrl-A c goes to the prompt", file=sys.stderr
                )
            departure = attach(session, prompt)
            if departure is Departure.QUIT:
                return 0
            if departure is Departure.ENDED:
                stop = session.wait()
                tell_end(session)
                if not prompted:
                    return status_of(stop)
            at_prompt = prompted = True


def tell_end(session: Session[Any]) -> None:
    """Why a guest stopped goes to stderr, so that stdout is the guest's console and nothing else."""
    stop = session.last_stop
    if stop is not None and stop.reason != "exit":
        print(f"hv: guest: {describe(stop)}, at instruction {session.vm.instructions:,}", file=sys.stderr)


def check(options: argparse.Namespace) -> None:
    """Refuse what does not go together, before anything is opened."""
    sources = [name for name in ("image", "load", "incoming", "backup") if getattr(options, name) is not None]
    if not sources:
        raise UsageError("run: an IMAGE, --load, --incoming or --backup is needed (see `hv run --help`)")
    if len(sources) > 1:
        raise UsageError(f"run: {' and '.join(sources)} exclude each other: each brings a guest")
    if options.lazy and options.load is None:
        raise UsageError("run: --lazy goes with --load")
    if options.image is None and (options.append or options.module):
        raise UsageError("run: --append and --module go with an IMAGE: a guest that has booted keeps its own")
    if (options.image == LINUX) != (options.kernel is not None):
        raise UsageError(f"run: {LINUX} and --kernel FILE go together")
    if options.initrd is not None and options.kernel is None:
        raise UsageError(f"run: --initrd goes with {LINUX}")


def module(text: str) -> tuple[Path, str]:
    """``FILE`` or ``FILE:COMMAND LINE``."""
    file, _, words = text.partition(":")
    return Path(file), words


class Guest(NamedTuple):
    """A guest, and what there is to know about where it comes from."""

    vm: VirtualMachine
    checkpoints: Checkpoints | None = None
    """What saves its changes since the file that it comes from."""
    runs: bool = False
    """It was running: go on at once."""
    ended: Stop | None = None
    """It had ended already."""


def _guest(options: argparse.Namespace, credentials: Credentials, held: contextlib.ExitStack) -> Guest | None:
    """The guest that the options ask for; None if a backup was not needed.

    What must stay open as long as it runs goes to ``held``.
    """
    from hypervisor.machine import VirtualMachine  # noqa: PLC0415 - `hv --help` needs no CPU

    show = machines.stderr_if_terminal()
    if options.load is not None:
        vm, checkpoints = machines.resume(
            options.load, options.technique, show, options.disk, options.paging, lazy=options.lazy
        )
        return Guest(vm, checkpoints)
    if options.backup is not None:
        return _backup(options, credentials, show)
    if options.incoming is not None:
        # Open as long as the guest runs: a source that lost the last message asks here how it ended.
        listener = held.enter_context(Listener(options.incoming, credentials=credentials))
        machines.warm_up()
        print(f"hv: waiting for a guest at {listener.address}", file=sys.stderr, flush=True)
        vm = machines.receive(
            listener,
            options.technique,
            show,
            options.disk,
            options.paging,
            most=options.memory,
            path=options.report,
        )
        return Guest(vm)
    is_linux = options.kernel is not None
    memory = LINUX_MEMORY if is_linux else DEFAULT_MEMORY
    vm = VirtualMachine.boot(
        options.kernel if is_linux else images.find(options.image),
        memory=memory if options.memory is None else options.memory,
        technique=options.technique or ("guest" if is_linux else "trap"),
        clock=options.clock,
        append=options.append,
        modules=options.module,
        disks=options.disk,
        paging=options.paging,
        initrd=options.initrd,
    )
    return Guest(vm)


def _backup(options: argparse.Namespace, credentials: Credentials, show: TextIO | None) -> Guest | None:
    """Wait until the primary of a guest is lost, or needs no backup any more."""
    with Backup(options.backup, fence=options.fence, credentials=credentials) as backup:
        print(f"hv: waiting for a primary at {backup.address}", file=sys.stderr, flush=True)
        outcome = machines.follow(
            backup, options.technique, show, options.disk, options.paging, most=options.memory
        )
    print(f"hv: {outcome.what}: {outcome.reason}", file=sys.stderr, flush=True)
    if outcome.vm is None:
        return None
    return Guest(cast("VirtualMachine", outcome.vm), runs=True, ended=outcome.ended)


COMMAND = Command(
    name="run",
    summary="run a guest on this terminal",
    run=run,
    options=(
        Option(
            ("image",),
            "a multiboot ELF file, or the name of a shipped guest (`hv info` lists them), or `linux`, which stands "
            "for --kernel",
            metavar="IMAGE",
        ),
        Option(
            ("--memory", "-m"),
            "guest RAM in bytes; k, m and g are powers of 1024 (default: 32m, for Linux 128m). With --incoming: the most that "
            "a guest may have who comes",
            size,
            metavar="SIZE",
        ),
        Option(
            ("--technique",),
            "how the guest's kernel is kept from the real machine (default: trap, for Linux guest; or as it came)",
            choices=tuple(TECHNIQUES),
        ),
        Option(
            ("--paging",),
            "which tables the CPU walks: shadow tables, which follow the guest's (traced) or wait for its flushes (lazy); or, "
            "with --technique guest, the guest's own and nested ones (nested)",
            default=DEFAULT_FORM,
            choices=tuple(FORMS),
        ),
        Option(
            ("--clock",),
            "virtual time: the number of instructions, or the host's clock",
            default="exact",
            choices=("exact", "wall"),
        ),
        Option(("--append",), "the kernel's command line", default="", metavar="TEXT"),
        Option(
            ("--kernel",), "with `linux`: a bzImage for i386 (`make linux` gets one)", Path, metavar="FILE"
        ),
        Option(("--initrd",), "with `linux`: its initial RAM disk", Path, metavar="FILE"),
        Option(
            ("--module",),
            "a multiboot module, with its command line; may be repeated",
            module,
            metavar="FILE[:TEXT]",
            repeat=True,
        ),
        Option(
            ("--disk",),
            "an IDE disk: a raw image, which stays as it is unless ,persist is said; one or two. A guest that "
            "was saved or comes from elsewhere needs the same again",
            parse_disk,
            metavar="FILE[,persist]",
            repeat=True,
        ),
        Option(
            ("--load",), "resume a guest from a file that the prompt's `save` wrote", Path, metavar="FILE"
        ),
        Option(
            ("--lazy",),
            "with --load: run at once, and read each page of the file when it is first needed",
            default=False,
            switch=True,
        ),
        Option(
            ("--incoming",),
            f"wait for a guest that another monitor migrates here, at {ADDRESSES}",
            parse_address,
            metavar="ADDRESS",
        ),
        Option(
            ("--backup",),
            f"hold the backup of a guest that another monitor replicates here, at {ADDRESSES}; take over when that "
            "monitor dies",
            parse_address,
            metavar="ADDRESS",
        ),
        Option(
            ("--replicate",),
            "keep a backup at a monitor that runs with --backup",
            parse_address,
            metavar="ADDRESS",
        ),
        Option(
            ("--epochs",),
            "with --replicate: so many times a second the backup gets what the guest has become",
            count,
            default=20,
            metavar="COUNT",
        ),
        Option(
            ("--fence",),
            "for --backup, --replicate and the prompt's `replicate`: a file that both monitors see, one for each "
            "guest; its lock decides who has the guest (default: in this user's directory on this host)",
            Path,
            metavar="FILE",
        ),
        Option(
            ("--tls-dir",),
            "for tls: addresses, and the prompt's `migrate`: certificates as `hv certificates` makes them",
            Path,
            metavar="DIR",
        ),
        Option(
            ("--token-file",),
            "for tls: addresses: a secret that both monitors know, instead of certificates or besides",
            Path,
            metavar="FILE",
        ),
        Option(
            ("--report",),
            "write what a migration did, from here or to here, to this file as JSON, while it goes on: "
            "`hv plot` draws it",
            Path,
            metavar="FILE",
        ),
        Option(
            ("--insecure",),
            "let guests travel over a network unprotected, by tcp:",
            default=False,
            switch=True,
        ),
        Option(("--prompt",), "begin at the monitor's prompt, the guest stopped", default=False, switch=True),
        Option(
            ("--pace",),
            "an idle guest's time does not run ahead of ours (on a terminal, unless --no-pace)",
            switch=True,
        ),
        Option(
            ("--until",),
            "stop at this instruction count; k, m and g are powers of 1000",
            count,
            metavar="COUNT",
        ),
    ),
    examples=(
        "hv run tern --until 3m </dev/null",
        "printf 'ps\\npoweroff\\n' | hv run tern --no-pace",
        "printf 'run 2m\\nregisters\\nexits\\nquit\\n' | hv run tern --prompt",
    ),
    slow_examples=(
        "hv run tern",
        "hv run --incoming tcp:127.0.0.1:4444",
        "hv run --backup tcp:127.0.0.1:4445",
        "hv run tern --replicate tcp:127.0.0.1:4445 --epochs 40",
    ),
    text=(
        "On a terminal every key goes to the guest, but for Ctrl-A x (leave), Ctrl-A c (the prompt),\n"
        "Ctrl-A a (Ctrl-A itself) and Ctrl-A h (help). Without one, standard input goes to the guest's console.\n\n"
        "Exit status: what the guest wrote to isa-debug-exit, as 2 * value + 1; 1 after a triple fault;\n"
        "0 if it was left, halted for good or reached --until; with --prompt off a terminal, that of the\n"
        "last command that failed."
    ),
)
