"""A guest that is migrated between two processes, under this hypervisor and under QEMU, for the benchmark.

Both run the same image with the same command line, and both say themselves how long it took, by
``query-migrate`` and by the report in its vocabulary.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from hypervisor.errors import HostError
from hypervisor.migration.report import read_report

QEMU: Final = "qemu-system-i386"
PATIENCE: Final = 120.0
"""Seconds that any of the processes may take for any of its steps."""
UNLIMITED: Final = 1 << 40
"""Bytes per second: QEMU has a limit of 128 MiB/s of its own."""


def hear(pipe: Any, pattern: bytes) -> re.Match[bytes]:
    """Read what a monitor says, up to something that fits ``pattern``.

    Raises:
        HostError: it ended before, or said nothing for too long.
    """
    deadline = time.monotonic() + PATIENCE
    heard = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], max(deadline - time.monotonic(), 0))
        data = pipe.read1() if ready else b""
        if not data:
            raise HostError(f"bench migration: a monitor ended, or was silent: {heard[-200:]!r}")
        heard += data
        found = re.search(pattern, heard)
        if found is not None:
            return found


class Figures(NamedTuple):
    """What a migration took: ms, ms, bytes."""

    downtime: float
    total: float
    transferred: int


class Pair:
    """Two monitors, of which the first has a guest. ``folder`` is for their files. A context."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, talk: bool = False) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE if talk else subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        self._processes.append(process)
        return process

    def migrate(self) -> Figures:
        """Move the guest to the second monitor."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


class Ours(Pair):
    """Two `hv run`, told what to do at their prompts."""

    def __init__(self, folder: Path, image: Path, memory: int, words: str) -> None:
        super().__init__(folder)
        hv = (sys.executable, "-m", "hypervisor.cli.main", "run", "--prompt", "--pace")
        self._there = self.start(*hv, "--incoming", "tcp::0", talk=True)
        self._here = self.start(*hv, str(image), "--memory", str(memory), "--append", words, talk=True)
        self._say(self._there, "run &")
        self._say(self._here, "run &")
        self._address = hear(self._there.stderr, rb"tcp:\S+:\d+")[0].decode()

    def migrate(self) -> Figures:
        path = self.folder / "report.json"
        self._say(self._here, f"migrate {self._address} {path}")
        told = hear(self._here.stdout, rb"(?m)^(at tcp:|error: ).*$")[0].decode()
        if told.startswith("error"):
            raise HostError(f"bench migration: {told}")
        report = read_report(path)
        return Figures(report.downtime, report.total_time, report.ram.transferred)

    def _say(self, process: subprocess.Popen[bytes], line: str) -> None:
        assert process.stdin is not None
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()


class Qemu(Pair):
    """Two QEMUs, told what to do by QMP. (`-M pc`: Debian's QEMU 7.2 aborts where an isapc arrives.)"""

    def __init__(self, folder: Path, image: Path, memory: int, words: str) -> None:
        super().__init__(folder)
        command = [QEMU, "-M", "pc", "-accel", "tcg", "-m", str(memory >> 20), "-display", "none"]
        command += ["-monitor", "none", "-serial", "null", "-no-reboot"]
        command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(image), "-append", words]
        sockets = [folder / "here.qmp", folder / "there.qmp"]
        for path, more in zip(sockets, ((), ("-incoming", "defer")), strict=True):
            self.start(*command, *more, "-qmp", f"unix:{path},server=on,wait=off")
        self._here, self._there = (Qmp(path) for path in sockets)
        self._there.ask("migrate-incoming", uri="tcp:127.0.0.1:0")
        self._port = self._there.ask("query-migrate")["socket-address"][0]["port"]
        self._here.ask("migrate-set-parameters", **{"max-bandwidth": UNLIMITED})

    def migrate(self) -> Figures:
        self._here.ask("migrate", uri=f"tcp:127.0.0.1:{self._port}")
        deadline = time.monotonic() + PATIENCE
        while True:
            told = self._here.ask("query-migrate")
            if told["status"] == "completed":
                return Figures(told["downtime"], told["total-time"], told["ram"]["transferred"])
            if told["status"] == "failed" or time.monotonic() > deadline:
                raise HostError(f"bench migration: QEMU's is {told['status']} after {PATIENCE:.0f} s")
            time.sleep(0.02)

    def __exit__(self, *exception: object) -> None:
        for qmp in (self._here, self._there):
            qmp.close()
        super().__exit__(*exception)


class Qmp:
    """QEMU's control socket: a JSON object per line, each way."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise HostError(f"bench migration: QEMU does not answer at {path}: {error}") from None
                time.sleep(0.02)
        self._file = self._socket.makefile("rw")
        self._file.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._file.flush()
        while True:
            answer = json.loads(self._file.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise HostError(f"bench migration: QEMU: {command}: {answer['error']['desc']}")

    def close(self) -> None:
        self._file.close()
        self._socket.close()
