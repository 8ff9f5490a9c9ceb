"""Hostile migrations: they are received here one after the other, and what must hold is checked.

A migration is named by one number, its seed: see migration_maker.py. tests/test_hostile_migrations.py starts this
program, which starts another of itself for the destination: that is a real listener with real machines, and
what it is asked is whether it is still there, in its right mind, and no larger than it may be. One
migration is repeated by

    PYTHONPATH=. python tests/hostile_migrations.py --first SEED --count 1
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import re
import select
import socket
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import IO, Any

from migration_maker import DISK, MOST_MEMORY, Maker, good

from hypervisor.devices.image import DiskFile
from hypervisor.errors import MigrationError, UsageError
from hypervisor.machine import VirtualMachine
from hypervisor.migration import Listener, Timeouts
from hypervisor.repl import machines

ROOM = 64 << 20
"""Bytes that the destination may need beside the machine's own memory."""
PATIENCE = 30.0
"""Seconds that it may take for a migration before it is said to hang; they take about ten ms."""
TIMEOUTS = Timeouts(connect=PATIENCE, message=PATIENCE, settle=0)


# ------------------------------------------------------------------------------------ the destination


def destination(folder: Path) -> None:
    """Receive whoever comes. For each line of standard input, tell in one line what came of somebody:

    ``refused`` (or nothing yet), ``arrived DIGEST``, or ``failed`` and why.
    """
    image = DiskFile(folder / "disk.img")
    machines.warm_up()
    gc.freeze()  # the listener collects after each that failed; what was imported is not to be looked at
    events: list[str] = []

    def make(config: Any) -> VirtualMachine:
        if config.memory > MOST_MEMORY:
            raise UsageError("the guest has too much memory")
        return VirtualMachine.create(config, [image])

    def receive() -> None:
        while True:
            try:
                with listener.receive(make) as vm:
                    events.append(f"arrived {vm.digest()}")
            except MigrationError as error:
                if "\n" in str(error):
                    events.append(repr(f"failed {error}"))
            except BaseException:
                events.append(repr(f"failed {traceback.format_exc()}"))

    listener = Listener(f"unix:{folder}/socket", timeouts=TIMEOUTS)
    threading.Thread(target=receive, daemon=True).start()
    while True:
        # Taken out one by one: more may come meanwhile.
        sys.stdout.write((events.pop(0) if events else "refused") + "\n")
        sys.stdout.flush()
        if not sys.stdin.readline():
            os._exit(0)
        if listener.unsettled:
            listener.discard()  # a copy that was prepared, and whose Commit was no good


# ----------------------------------------------------------------------------------------- the source


class Destination:
    """The other process, and what it is asked."""

    def __init__(self, folder: Path) -> None:
        (folder / "disk.img").write_bytes(DISK)
        self.path = f"{folder}/socket"
        told, tell = os.pipe()
        ask, asked = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            os.dup2(ask, 0)
            os.dup2(tell, 1)
            for descriptor in (told, tell, ask, asked):
                os.close(descriptor)
            command = [sys.executable, __file__, "--destination", str(folder)]
            os.execve(sys.executable, command, dict(os.environ))
        os.close(tell)
        os.close(ask)
        self.out = os.fdopen(told, "rb", 0)  # unbuffered: what is in no buffer, `select` sees
        self.inp: IO[str] = os.fdopen(asked, "w")

    def hear(self) -> str:
        if not select.select([self.out], [], [], 2 * PATIENCE)[0]:
            raise AssertionError("the destination hangs")
        line = self.out.readline()
        if not line:
            _, status = os.waitpid(self.child, 0)
            raise AssertionError(f"the destination ended with status {os.waitstatus_to_exitcode(status)}")
        return line.decode().strip()

    def give(self, data: bytes) -> str:
        """Send it a migration; what came of it."""
        deadline = time.monotonic() + PATIENCE
        while b"no one waits" in self.answer_to(data):  # it is between two guests
            assert time.monotonic() < deadline, "the destination hangs"
        return self.ask()

    def answer_to(self, data: bytes) -> bytes:
        """Send it a migration; all that it says."""
        answer = bytearray()
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(PATIENCE)
            link.connect(self.path)
            with contextlib.suppress(ConnectionError):  # it is refused before all of it is sent
                link.sendall(data)
                link.shutdown(socket.SHUT_WR)
            try:
                while piece := link.recv(1 << 16):
                    answer += piece
            except ConnectionError:
                pass
            except TimeoutError:
                raise AssertionError("the destination hangs") from None
        return bytes(answer)

    def ask(self) -> str:
        """What has become of what was sent."""
        self.inp.write("next\n")
        self.inp.flush()
        return self.hear()

    def assert_works(self) -> None:
        """A good migration arrives."""
        answer = self.give(whole())
        deadline = time.monotonic() + PATIENCE
        while not answer.startswith("arrived"):  # it is told when it has been looked at
            assert time.monotonic() < deadline, "a good migration does not arrive any more"
            answer = self.ask()
        assert answer == f"arrived {good().digest}", "a good migration arrived as another one"

    def memory(self) -> int:
        """The most that it has ever taken, in bytes."""
        status = Path(f"/proc/{self.child}/status").read_text()
        found = re.search(r"VmHWM:\s*(\d+) kB", status)
        assert found
        return int(found[1]) << 10

    def end(self) -> None:
        self.inp.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.child, 0)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--destination", type=Path)
    options = parser.parse_args()
    if options.destination is not None:
        destination(options.destination)
    with tempfile.TemporaryDirectory() as folder:
        there = Destination(Path(folder))
        seed = -1
        try:
            assert there.hear() == "refused"
            limit = there.memory() + MOST_MEMORY + ROOM
            for seed in range(options.first, options.first + options.count):
                answer = there.give(Maker(seed).make())
                assert answer == "refused", answer
                assert there.memory() <= limit, f"it took {there.memory() >> 20} MiB"
            seed = -1
            there.assert_works()
        except AssertionError as error:
            print(f"seed {seed}: {error}")  # noqa: T201 - for who started this program
            os.kill(there.child, 9)
            return 1
        finally:
            there.end()
    return 0


def whole() -> bytes:
    """The good migration."""
    maker = Maker(0)
    maker.pieces, maker.header = good().pieces, good().header
    return maker.to_bytes()


if __name__ == "__main__":
    sys.exit(main())
