"""What tests need to know about the guest kernel tern: its image, QEMU, and how to compare consoles."""

from __future__ import annotations

import functools
import os
import re
import select
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

GUESTS = Path(__file__).resolve().parent.parent / "guests"
IMAGE = GUESTS / "build" / "tern.elf"
PROGRAMS = GUESTS / "build" / "tern" / "bin"
"""The user programs' ELF images, as they are linked into the kernel."""

WIPE = "\r\x1b[K"
"""What tern's console sends before it replaces an unfinished line (guests/tern/README.md)."""


@functools.cache
def build() -> Path:
    """Bring the image up to date and return its path."""
    made = subprocess.run(["make", "-C", str(GUESTS)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.fail(f"guests do not build:\n{made.stderr}")
    return IMAGE


def transcript(console: bytes) -> list[str]:
    """The lines of a console session that do not depend on timing.

    Lines of background jobs (``[PID] ...``) are taken out together with the wiping and repeating of
    the unfinished line around them; times (``1.23s``) become ``T``. By guests/tern/README.md what
    remains is the same on every machine.
    """
    text = console.decode("latin-1").replace("\r\n", "\n")
    lines = [line.rpartition(WIPE)[2] for line in text.split("\n")]
    return [re.sub(r"\b\d+\.\d\ds", "T", line) for line in lines if not re.match(r"\[\d+\] ", line)]


@dataclass
class Run:
    """One life of the machine on QEMU."""

    console: bytes
    status: int | None
    """What the guest gave to ``poweroff``; None if it ended in another way."""

    @property
    def lines(self) -> list[str]:
        return transcript(self.console)


def qemu_command(command_line: str, *options: str) -> list[str]:
    """The command that runs tern on QEMU's ISA PC with COM1 on its standard input and output.

    Not ``-nographic``: with it SeaBIOS reads COM1 too and takes characters away from the guest.
    """
    qemu = shutil.which("qemu-system-i386")
    if qemu is None:
        pytest.skip("qemu-system-i386 is not installed")
    return [
        *(qemu, "-M", "isapc", "-m", "16", "-display", "none", "-serial", "stdio", "-monitor", "none"),
        *("-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
        *("-kernel", str(build()), "-append", command_line, *options),
    ]


def exit_status(code: int) -> int | None:
    """The guest's status from QEMU's, which isa-debug-exit makes 2 * status + 1."""
    return code >> 1 if code & 1 else None


def run_on_qemu(typed: str = "", command_line: str = "quiet", *options: str, timeout: float = 60) -> Run:
    """Boot tern on QEMU, type everything ahead as soon as it says something, and wait until it powers off.

    Not before: a kernel that starts up clears its receiver, and what arrived just then is lost.
    """
    with subprocess.Popen(
        qemu_command(command_line, *options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as qemu:
        try:
            assert qemu.stdout is not None
            ready, _, _ = select.select([qemu.stdout], [], [], timeout)
            first = os.read(qemu.stdout.fileno(), 1) if ready else b""
            rest, _ = qemu.communicate(typed.encode(), timeout)
        except BaseException:
            qemu.kill()
            raise
    return Run(first + rest, exit_status(qemu.returncode))
