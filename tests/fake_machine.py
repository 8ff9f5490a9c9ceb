"""A virtual machine of a page, for tests of the faces that people look at one through.

Its guest executes one instruction a turn, prints a dot every 100, and echoes what it is sent; ``script``
says at which instruction counts it stops by itself, and why.
"""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import NamedTuple

from hypervisor.devices.disk import Disks
from hypervisor.errors import AddressError
from hypervisor.state.model import MachineConfig


class FakeStop(NamedTuple):
    reason: str
    detail: str = ""
    status: int = 0


class FakeConsole:
    def __init__(self) -> None:
        self.output = bytearray()
        self.sent = bytearray()

    def send(self, data: bytes) -> None:
        self.sent += data
        self.output += data


class FakeMachine:
    config = MachineConfig(memory=1 << 20)
    identity = "0123456789abcdef" * 2
    epoch = 0
    technique = config.technique
    hole = None

    def __init__(self, script: dict[int, FakeStop] | None = None) -> None:
        self.instructions = 0
        self.console = FakeConsole()
        self.script = script or {}
        self.closed = False
        self.entered = threading.Event()
        self.ram = bytearray(range(256)) * 4096
        self.disks = Disks(())
        self._stop = False

    def run(self, *, instructions=None, until=None):
        self.entered.set()
        if instructions is not None:
            until = self.instructions + instructions
        while True:
            if self._stop:
                self._stop = False
                return FakeStop("stop")
            if until is not None and self.instructions >= until:
                return FakeStop("limit")
            if until is None and not self.script:
                time.sleep(0.0005)  # an endless guest leaves the host some air
            self.instructions += 1
            if self.instructions % 100 == 0:
                self.console.output += b"."
            if self.instructions in self.script:
                return self.script.pop(self.instructions)

    def request_stop(self):
        self._stop = True

    def close(self):
        self.closed = True

    def digest(self):
        return f"{self.instructions:064x}"

    def snapshot(self):
        return self.instructions

    def load_snapshot(self, snapshot):
        self.instructions = snapshot

    position = 0x2000

    def registers(self):
        return {"eax": 1, "esp": 0x1000, "eip": 0x2000, "eflags": 0x202, "cs": 0x08}

    def real_registers(self):
        return {"eax": 1, "esp": 0x1000, "eip": 0x2000, "eflags": 0x3302, "cs": 0x09, "cpl": 1}

    def read(self, kind, address, size):
        if address + size > len(self.ram):
            raise AddressError(f"{kind}:{address:#x} is not mapped")
        return bytes(self.ram[address : address + size])

    def disassemble(self, gva, count):
        return [(gva + i, b"\x90", "nop") for i in range(count)]

    def translate(self, gva):
        guest = [("PDE", 0x1000 + (gva >> 22) * 4, 0x2067), ("PTE", 0x2000, 0x5025)]
        shadow = [("PDPTE", 0x20, 0x3001), ("PDE", 0x3000, 0x4067), ("PTE", 0x4000, 0x8000000001005025)]
        if gva >= 1 << 31:
            guest, shadow = [("PDE", 0x1000, 0x6)], [("PDPTE", 0x20, 0)]
        return SimpleNamespace(guest=guest, shadow=shadow)

    def exit_counts(self):
        return {"#GP": 30, "#PF": 70, "SHUTDOWN": 0}

    def screen(self):
        return "tern\n$ "

    def present(self):
        return None

    def capture(self):
        fields = {"divisor": 1193, "fifo": b"\x01\x02"}
        return SimpleNamespace(devices={"pit": SimpleNamespace(version=1, fields=fields)})
