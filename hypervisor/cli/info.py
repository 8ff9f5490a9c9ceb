"""`hv info`: what is installed here, in which form it runs, and whether the CPU below is as it must be; or what
is in a saved file.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import pkgutil
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import hypervisor
from hypervisor import _source, images
from hypervisor.cli.command import Command, Option
from hypervisor.errors import HypervisorError
from hypervisor.state import chain
from hypervisor.state.model import MachineConfig

LIBRARIES = ("unicorn", "capstone", "msgspec", "prompt_toolkit", "rich")


def run(options: argparse.Namespace) -> int:
    """Print one fact a line. The status is 1 if no guest can run here, or the file is no good."""
    if options.file is not None:
        for line in saved(options.file):
            print(line)
        return 0
    status = 0
    for name, value in facts():
        print(f"{name:<14} {value}")
    try:
        print(f"{'substrate':<14} {substrate()}")
    except (HypervisorError, ImportError) as error:
        print(f"{'substrate':<14} not usable: {error}")
        status = HypervisorError.status
    return status


def saved(path: Path) -> Iterator[str]:
    """What is in a saved file and in those that it stands on, all of which are checked."""
    links = chain.follow(path)
    newest = links[0].state
    config = newest.config
    yield f"identity       {newest.identity}"
    yield f"epoch          {newest.epoch}"
    yield f"memory         {config.memory >> 10:,} KiB"
    yield f"technique      {config.technique}"
    yield f"clock          {config.clock}"
    for index, disk in enumerate(config.disks):
        kind = (
            "persistent"
            if disk.persistent
            else f"{len(chain.whole(links).disks[index].clusters):,} clusters changed"
        )
        yield f"disk {index}         {disk.name}, {disk.sectors:,} sectors, {kind}"
    for link in links:
        summary = link.summary
        what = "whole" if link.parent is None else "changes"
        yield (
            f"{what:<14} {link.path.name}: at instruction {link.state.clock.instructions:,}, "
            f"{summary.zero + summary.normal:,} pages, {summary.length:,} bytes, digest {summary.digest.hex()[:16]}"
        )


def facts() -> Iterator[tuple[str, str]]:
    """Names and values, without touching the CPU below."""
    yield "hv", hypervisor.__version__
    yield (
        "python",
        f"{platform.python_version()} ({platform.machine()}, {platform.system()} {platform.release()})",
    )
    for library in LIBRARIES:
        yield library, importlib.metadata.version(library)
    yield "images", ", ".join(images.names()) or "none: run `make guests`"
    yield (
        "interpreted",
        "every module (HV_PURE is set)" if _source.pure() else "what is not listed as compiled",
    )
    yield "compiled", ", ".join(compiled_modules()) or "no module but hypervisor.ext"


def compiled_modules() -> list[str]:
    """Modules of Python that run compiled just now; ``hypervisor.ext`` always does and is not named."""
    found = []
    for module in pkgutil.walk_packages(hypervisor.__path__, "hypervisor."):
        if module.name.startswith("hypervisor.ext.") or module.ispkg:
            continue
        spec = importlib.util.find_spec(module.name)
        if spec is not None and spec.origin is not None and spec.origin.endswith(".so"):
            found.append(module.name)
    return sorted(found)


def substrate() -> str:
    """Make a machine, and so check the CPU below; one line on it, or HypervisorError.

    Its context image is laid out anew in every build of Unicorn, and the monitor edits it: each start
    looks for known values in it and runs a few instructions, and refuses to go on if anything is off.
    """
    from hypervisor.machine import VirtualMachine  # noqa: PLC0415 - opening the CPU's library takes time

    began = time.perf_counter()
    with VirtualMachine.create(MachineConfig(memory=1 << 20)) as vm:
        passed = 1000 * (time.perf_counter() - began)
        slow = "" if vm.cpu.leaves_checks_out else "; slow: it checks for exits after every load and store"
    return f"laid out and behaving as expected (checked in {passed:.0f} ms){slow}"


COMMAND = Command(
    name="info",
    summary="show versions and check the CPU below, or show what a saved file holds",
    run=run,
    options=(
        Option(
            ("file",), "a saved guest: show what it is, and the files that it stands on", Path, metavar="FILE"
        ),
    ),
    examples=("hv info",),
    slow_examples=("hv info guest.hv",),
    text=(
        "The check looks for the CPU's context layout anew, as every start of a guest does.\n"
        "With a FILE: everything in it is checked, and in the files that it stands on, the newest first."
    ),
)
