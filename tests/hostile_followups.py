"""Hostile pages, lists of missing pages, and epochs: they are taken in here, and what must hold is checked.

Each is named by one number, its seed: see followup_maker.py. tests/test_hostile_migrations.py starts this program,
since what it looks for may end it. One is repeated by

    PYTHONPATH=. python tests/hostile_followups.py --first SEED --count 1
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import re
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from followup_maker import (
    HERE,
    PAGES,
    FollowupMaker,
    Kind,
    absent,
    contents,
    good_epochs,
    good_missing,
    good_pages,
)
from migration_maker import MEMORY, MOST_MEMORY, PAGE, TRANSFER, Good, Maker

from hypervisor.errors import HypervisorError, UsageError
from hypervisor.machine import VirtualMachine
from hypervisor.migration import Report, Timeouts
from hypervisor.migration.channel import Channel
from hypervisor.migration.pager import Pager
from hypervisor.migration.postcopy import PageServer
from hypervisor.migration.protocol import PROTOCOL_VERSION, Hello
from hypervisor.migration.recorder import Recorder
from hypervisor.migration.replication.backup import Backup
from hypervisor.migration.replication.messages import Holding
from hypervisor.state.model import MachineConfig

ROOM = 64 << 20
"""Bytes that may be needed beside the machine's own memory."""
PATIENCE = 30.0
"""Seconds before something is said to hang; it takes a few ms."""
TIMEOUTS = Timeouts(connect=PATIENCE, message=PATIENCE, settle=0)
KINDS: tuple[Kind, ...] = ("pages", "missing", "epochs")
OURS = b"\xa5" * PAGE * len(HERE)
"""In the pages that are not missing."""


class Receivers:
    """Whoever takes in what is sent. ``failures``: what threads ended with that they should not."""

    def __init__(self, folder: Path) -> None:
        self.failures: list[str] = []
        threading.excepthook = lambda args: self.failures.append("".join(traceback.format_exception(args[1])))
        self.vm = VirtualMachine.create(MachineConfig(MEMORY))
        self.vm.owned = False
        fence = folder / "fence"
        fence.write_bytes(b"o" + good_epochs()[1].encode())  # no primary has the lock, and it never was valid
        self.backup = Backup(f"unix:{folder}/backup", fence=fence, timeouts=TIMEOUTS)
        self._at = f"{folder}/backup"
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        def make(config: MachineConfig) -> VirtualMachine:
            if config.memory > MOST_MEMORY:
                raise UsageError("the guest has too much memory")
            gc.collect()
            return VirtualMachine.create(config)

        while True:
            outcome = self.backup.follow(make)
            if outcome.vm is not None:
                self.failures.append(f"a guest was taken over: {outcome.reason}")

    def pages(self, data: bytes) -> bytes:
        """They come to a guest that misses all but a few."""
        vm = self.vm
        vm.absent.end()
        vm.ram[:] = bytes(MEMORY)
        vm.ram[HERE.start * PAGE : HERE.stop * PAGE] = OURS
        recorder = Recorder(Report())
        hello = Hello(PROTOCOL_VERSION, "0" * 32, 0, TRANSFER)
        pager = Pager(vm, hello, bytes(PAGES), TIMEOUTS, recorder)
        vm.absent.begin(bytes(absent()), pager)
        ours, theirs = socket.socketpair()
        pager.connect(Channel(theirs, TIMEOUTS), resumed=False)
        pager.retire()
        pager.start()
        answer = talk(ours, data)
        for thread in threading.enumerate():
            if thread.name == "pager":
                thread.join(PATIENCE)
                assert not thread.is_alive(), "the pager hangs"
        lost = vm.absent.count
        assert (vm.absent.lost is not None) == (lost > 0), "a guest waits for ever"
        vm.absent.end()
        assert vm.ram[HERE.start * PAGE : HERE.stop * PAGE] == OURS, "a page that was here has changed"
        assert vm.instructions == 0, "a guest was started"
        return b"" if lost else answer

    def missing(self, data: bytes) -> bytes:
        """It comes to a source that owes pages."""
        vm = self.vm
        vm.absent.end()
        ours, theirs = socket.socketpair()
        server = PageServer(vm, absent(), TRANSFER, Recorder(Report()))

        def serve() -> None:
            with contextlib.suppress(HypervisorError), Channel(theirs, TIMEOUTS) as channel:
                server.resume(channel)

        thread = threading.Thread(target=serve)
        thread.start()
        answer = talk(ours, data)
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the source hangs"
        return answer

    def epochs(self, data: bytes) -> bytes:
        """They come to a backup."""
        ours = socket.socket(socket.AF_UNIX)
        ours.connect(self._at)
        return talk(ours, data)


def talk(link: socket.socket, data: bytes) -> bytes:
    """Say all of ``data``, while hearing what is answered; until the other side ends it."""
    answer = bytearray()

    def say() -> None:
        with contextlib.suppress(OSError):
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)

    with link:
        link.settimeout(PATIENCE)
        speaker = threading.Thread(target=say)
        speaker.start()
        try:
            while piece := link.recv(1 << 16):
                answer += piece
        except ConnectionError:
            pass
        except TimeoutError:
            raise AssertionError("it hangs") from None
        finally:
            speaker.join()
    return bytes(answer)


def memory() -> int:
    """The most that this process has ever taken, in bytes."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


def assert_works(receivers: Receivers) -> None:
    """What is not altered is taken in, to its end."""
    assert b"Complete" in receivers.pages(plain(good_pages()))
    pages = bytearray(contents())
    pages[HERE.start * PAGE : HERE.stop * PAGE] = OURS
    assert receivers.vm.ram == pages, "pages arrived as other ones"
    assert re.search(rb"ram\0|packed\0", receivers.missing(plain(good_missing())))
    epochs = good_epochs()[0]
    sent = sum(b"Epoch" in piece.payload[:20] for piece in epochs.pieces if hasattr(piece, "payload"))
    assert sent > 4
    assert receivers.epochs(plain(epochs)).count(Holding.__name__.encode()) == sent + 1


def plain(good: Good) -> bytes:
    maker = Maker(0, good)
    maker.pieces, maker.header = good.pieces, good.header
    maker.consistent = False
    return maker.to_bytes()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    options = parser.parse_args()
    logging.disable()  # each of them is told to the log
    seed = -1
    with tempfile.TemporaryDirectory() as folder:
        receivers = Receivers(Path(folder))
        of: dict[Kind, tuple[Good, Callable[[bytes], bytes]]] = {
            "pages": (good_pages(), receivers.pages),
            "missing": (good_missing(), receivers.missing),
            "epochs": (good_epochs()[0], receivers.epochs),
        }
        try:
            assert_works(receivers)
            limit = memory() + MOST_MEMORY + ROOM
            for seed in range(options.first, options.first + options.count):
                good, receive = of[KINDS[seed % len(KINDS)]]
                receive(FollowupMaker(seed, good).make())
                assert not receivers.failures, receivers.failures[0]
                assert memory() <= limit, f"it took {memory() >> 20} MiB"
            assert_works(receivers)
        except Exception:
            print(f"seed {seed}: {traceback.format_exc()}")  # noqa: T201 - for who started this program
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
