"""`hv`: finds the subcommand, runs it, and turns every way it can end into an exit status.

0: all is well. 1: an error, told in one line on stderr. 2: a command that makes no sense. 130: Ctrl-C.
`hv run` ends with the status that the guest gives to isa-debug-exit.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import hypervisor
from hypervisor.cli import analyze, bench, certificates, demo, info, plot, run, squash
from hypervisor.cli.command import Command, Parser
from hypervisor.errors import HypervisorError

COMMANDS: tuple[Command, ...] = (
    run.COMMAND,
    demo.COMMAND,
    bench.COMMAND,
    analyze.COMMAND,
    certificates.COMMAND,
    plot.COMMAND,
    squash.COMMAND,
    info.COMMAND,
)

INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE


def parser() -> Parser:
    """The whole command line, from the declarations in the modules beside this one."""
    whole = Parser(
        prog="hv", description="An x86 hypervisor for teaching.", epilog="`hv COMMAND --help` has examples."
    )
    whole.add_argument("--version", action="version", version=f"hv {hypervisor.__version__}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status. Raises nothing that a user could have caused."""
    try:
        options = parser().parse_args(arguments)
        status: int = options.run(options)
        sys.stdout.flush()
    except HypervisorError as error:
        return complain(str(error), error.status)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough (`hv bench | head`). Python would complain once more
        # when it flushes stdout at its end: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        return complain(f"{where}{error.strerror}", HypervisorError.status)
    return status


def complain(message: str, status: int) -> int:
    """One line on stderr, whatever is in the message."""
    print(f"hv: {' '.join(message.split())}", file=sys.stderr)
    return status


def entry_point() -> NoReturn:
    """What the `hv` script calls."""
    # An exception unwinds the stack, and so restores the terminal; the default action would not.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    sys.exit(main())


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    entry_point()
