"""A machine without a monitor, and a record of who was allowed to run it."""

from __future__ import annotations

import threading

import msgspec
from state_samples import sample_ram, sample_state

from hypervisor.ext.memory import PhysicalMemory
from hypervisor.paging.absent import AbsentFrames
from hypervisor.state.model import MachineConfig, MachineState


class Ledger:
    """Watches every change of ownership; two owners at once are noted for ever."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._machines: list[OwnedMachine] = []
        self.violations: list[str] = []

    def enter(self, machine: OwnedMachine) -> None:
        with self._lock:
            self._machines.append(machine)

    def changed(self, machine: OwnedMachine, owned: bool) -> None:
        with self._lock:
            machine.may_run = owned
            owners = [one.name for one in self._machines if one.may_run]
            if len(owners) > 1:
                self.violations.append(" and ".join(owners))

    @property
    def owners(self) -> list[str]:
        with self._lock:
            return [machine.name for machine in self._machines if machine.may_run]


class ScriptedLog:
    """A dirty log with a guest behind it that writes a little between any two looks, for ``busy`` of them.

    So a migration in rounds has something to send in each, and the same every time.
    """

    def __init__(self, ram: memoryview, busy: int) -> None:
        self._ram = ram
        self._busy = busy
        self._looks = 0
        self.active = False

    def another(self):
        return self

    def start(self) -> None:
        assert not self.active
        self.active = True

    def harvest(self) -> bytearray:
        assert self.active
        self._looks += 1
        written = bytearray(len(self._ram) // 4096)
        if self._looks <= self._busy:
            for page in (5, 40 + self._looks, len(written) - 1):
                at = page * 4096 + 16 * self._looks
                self._ram[at : at + 8] = bytes([page & 0xFF, self._looks]) * 4
                written[page] = 1
        return written

    def stop(self) -> None:
        self.active = False


class OwnedMachine:
    """Has what a migration needs, and tells the ledger when it may run."""

    replayable = False
    journal = None
    rescue = None

    def __init__(
        self,
        config: MachineConfig,
        ledger: Ledger,
        name: str,
        *,
        state: MachineState | None = None,
        ram: bytearray | None = None,
    ) -> None:
        self.config = config
        self.name = name
        self.ended = None
        self.ram_file = -1
        self.held = 0
        self.closed = False
        self.may_run = False
        self._ledger = ledger
        self._memory = PhysicalMemory(config.memory if ram is None else len(ram))
        self._ram = self._memory.ram_view()
        if ram is not None:
            self._ram[:] = ram
        self.absent = AbsentFrames(self._memory)
        self.dirty = ScriptedLog(self._ram, busy=3)
        self._state = state
        self.identity = "" if state is None else state.identity
        self.epoch = 0 if state is None else state.epoch
        ledger.enter(self)

    @property
    def owned(self) -> bool:
        return self.may_run

    @owned.setter
    def owned(self, value: bool) -> None:
        assert not (value and self.closed), "a machine that was closed must never run"
        self._ledger.changed(self, value)

    @property
    def ram(self) -> memoryview:
        self.absent.complete()
        return self._ram

    def visit(self, work):
        return work()

    def nudge(self) -> None:
        pass

    def hold(self) -> None:
        self.held += 1

    def release(self) -> None:
        self.held -= 1

    def present(self) -> bytes:
        pages = len(self._ram) // 4096
        return bytes(any(self._ram[n * 4096 : (n + 1) * 4096]) or n % 3 == 0 for n in range(pages))

    def capture(self) -> MachineState:
        assert self.held
        return self.state()

    def state(self) -> MachineState:
        assert self._state is not None
        return msgspec.structs.replace(self._state, epoch=self.epoch)

    def restore(self, state: MachineState) -> None:
        self._state = state
        self.identity = state.identity
        self.epoch = state.epoch

    def close(self) -> None:
        self.closed = True

    def guest(self) -> tuple[MachineState, bytes]:
        """Everything but the epoch: what must not change when the guest moves."""
        return msgspec.structs.replace(self.state(), epoch=0), bytes(self.ram)


def source_machine(ledger: Ledger, *, seed: int = 1) -> OwnedMachine:
    """A machine that was stopped in the middle of something, owned here."""
    state = sample_state()
    machine = OwnedMachine(state.config, ledger, "source", state=state, ram=sample_ram(seed=seed))
    machine.owned = True
    return machine
