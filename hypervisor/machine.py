"""The virtual machine: CPU, memory, devices and monitor put together. This is the Python API.

    with VirtualMachine.boot("tern.elf", memory=16 << 20) as vm:
        stop = vm.run(until=3_000_000)
        print(vm.digest(), vm.console.output.decode())

A machine is used by one thread at a time, except for ``request_stop``, ``console.send``, ``visit``, ``hold``
and ``release``, which any thread may call at any time.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from hypervisor.boot.entry import Entry
from hypervisor.boot.kernel import Kernel, Module
from hypervisor.console import Awaited, Console
from hypervisor.devices.disk import Disks
from hypervisor.devices.image import DiskFile
from hypervisor.devices.isa_pc import IsaPc
from hypervisor.devices.outlet import Outlet
from hypervisor.errors import (
    AddressError,
    FramesLostError,
    HostError,
    HypervisorError,
    StateError,
    UsageError,
)
from hypervisor.ext.cpu import Cpu
from hypervisor.ext.memory import PhysicalMemory
from hypervisor.hardware.x86 import CR0_PE, CS
from hypervisor.inspect import Inspection
from hypervisor.monitor.clock import VirtualClock
from hypervisor.monitor.gate import Gate
from hypervisor.monitor.loop import FOREVER, Monitor, Stop
from hypervisor.monitor.pacing import Pacer
from hypervisor.monitor.replay import Repetition, Replay
from hypervisor.monitor.sites import Hole
from hypervisor.monitor.vcpu import VirtualCpu
from hypervisor.paging.absent import AbsentFrames
from hypervisor.paging.copy_on_write import CopyOnWrite
from hypervisor.paging.dirty import DirtyLog
from hypervisor.paging.forms import DEFAULT_FORM, FORMS, NESTED, forms_for
from hypervisor.paging.physical import PhysicalMap
from hypervisor.state.cpu import capture_cpu, check_cpu, restore_cpu
from hypervisor.state.digest import digest, digests
from hypervisor.state.journal import Input, Journal, Moment
from hypervisor.state.model import ClockState, MachineConfig, MachineState
from hypervisor.techniques import TECHNIQUES, technique

T = TypeVar("T")

MINIMUM_MEMORY = 1 << 20
MAXIMUM_MEMORY = 3 << 30
"""Above that a PC of this kind has the addresses of devices and firmware."""
FLAT_CODE = 0x00CF9B00
FLAT_DATA = 0x00CF9300
FPU_AFTER_RESET = b"\x7f\x03" + bytes(22) + b"\x80\x1f\x00\x00\xff\xff\x00\x00" + bytes(480)


class Snapshot:
    """A machine's state with a copy of its RAM, in memory."""

    def __init__(self, state: MachineState, ram: bytes) -> None:
        self.state = state
        self.ram = ram


class VirtualMachine(Inspection):
    """One guest. Made by ``boot``, or by ``create`` and ``restore``."""

    def __init__(
        self,
        config: MachineConfig,
        disks: Iterable[DiskFile | Path | str] = (),
        paging: str = DEFAULT_FORM,
    ) -> None:
        if paging not in FORMS:
            raise UsageError(f"no form of paging {paging!r}: there are {', '.join(FORMS)}")
        if config.technique not in TECHNIQUES:
            raise UsageError(f"no technique {config.technique!r}: there are {', '.join(TECHNIQUES)}")
        if config.clock not in ("exact", "wall"):
            raise UsageError(f"no clock {config.clock!r}: there are exact and wall")
        if config.memory % 4096 or not MINIMUM_MEMORY <= config.memory <= MAXIMUM_MEMORY:
            raise UsageError(
                f"{config.memory} bytes of memory: it must be a multiple of 4096, from 1 MiB to 3 GiB"
            )
        chosen = technique(config.technique)
        if paging not in forms_for(chosen.nested):
            raise UsageError(f"{paging} paging goes with guest mode only, not with {config.technique}")
        self.identity = uuid.uuid4().hex
        self.epoch = 0
        self._owned = True
        self.ended: Stop | None = None
        """How the guest ended its life, if it did: ``exit`` or ``reset``."""
        self.journal: Journal | None = None
        """Notes what comes in and how much goes out, while there is one."""
        self.rescue: Callable[[], None] | None = None
        """How to go on when frames of RAM are lost, if there is a way. Called by ``run``."""
        self._repetition: Repetition | None = None
        self._awaited: Awaited | None = None
        """What ``run_until`` waits for."""
        self._failure: HypervisorError | None = None
        """Why the machine is no guest's any more, if so."""
        self.console = Console(self.nudge)
        self.memory = PhysicalMemory(config.memory)
        self.absent = AbsentFrames(self.memory)
        """Which frames of RAM are not here yet, and how they come."""
        self._ram = self.memory.ram_view()
        self.cpu = Cpu(
            self.memory,
            chosen.intercepts,
            chosen.control_intercepts,
            chosen.debug_intercepts,
            exact=config.clock == "exact",
            nested=paging == NESTED,
        )
        # What can fail for want of memory comes before, so that no image is left open.
        self.disks = Disks(disks)
        self.outlet = Outlet(self.console.output, self.disks.list)
        """What leaves the machine; it may be held for a while."""
        self.physical = PhysicalMap(config.memory)
        self.paging_form = paging
        self.paging = FORMS[paging](self.memory, self.cpu, self.physical)
        self.dirty = DirtyLog(self.memory, self.paging)
        """Which frames of RAM are written to, for whoever copies it meanwhile."""
        self.vcpu = VirtualCpu(self.cpu, self.memory, self.paging, chosen)
        self.load_flat_segments()
        self.clock = VirtualClock(self.cpu, exact=config.clock == "exact")
        self.devices = IsaPc(
            self.clock, self._ram, self._output, self._exit, self._reset, disks=self.disks.list
        )
        self.vcpu.bus = self.devices
        self.monitor = Monitor(self.vcpu, chosen, self.devices, self.clock)
        self.monitor.before_entry = self._between_entries
        self.pacer = Pacer(self.monitor, self.clock)
        self.gate = Gate(self.nudge)
        self.config = MachineConfig(
            config.memory, config.technique, config.clock, tuple(self.devices.devices), self.disks.config
        )
        self._closed = False

    # ---------------------------------------------------------------- life

    @classmethod
    def boot(
        cls,
        image: str | Path,
        *,
        memory: int = 32 << 20,
        technique: str = "trap",
        clock: str = "exact",
        append: str = "",
        modules: Iterable[Module] = (),
        disks: Iterable[DiskFile | Path | str] = (),
        paging: str = DEFAULT_FORM,
        initrd: str | Path | None = None,
    ) -> VirtualMachine:
        """A machine with a Multiboot or Linux kernel loaded, about to execute its first instruction.

        ``image`` is a file, or the name of an image that comes with the hypervisor. ``memory`` is in bytes,
        ``append`` the kernel's command line, ``modules`` files, or pairs of file and command line (Multiboot),
        ``initrd`` the file of the initial RAM disk (Linux), ``disks`` up to two raw images (see
        ``devices.disk`` for what becomes of changes), ``paging`` the form of paging (``traced``, ``lazy``, or
        ``nested`` with the technique ``guest``: no part of the machine's state). Raises ImageError, HostError or
        UsageError.
        """
        kernel = Kernel.read(image, append, modules, initrd)
        vm = cls(MachineConfig(memory, technique, clock), disks, paging)
        try:
            vm.disks.hold()
            vm.enter_kernel(kernel.load(vm.ram, vm.physical.regions()))
        except BaseException:
            vm.close()
            raise
        return vm

    @classmethod
    def create(
        cls,
        config: MachineConfig,
        disks: Iterable[DiskFile | Path | str] = (),
        paging: str = DEFAULT_FORM,
    ) -> VirtualMachine:
        """An empty machine, to be restored into. ``disks`` name the images of those in ``config``."""
        vm = cls(config, disks, paging)
        try:
            vm.check_devices(config)
        except BaseException:
            vm.close()
            raise
        return vm

    def check_devices(self, config: MachineConfig) -> None:
        """Raise StateError if ``config`` wants other devices or disks than this machine has."""
        if config.devices and config.devices != self.config.devices:
            raise StateError(
                f"the machine has devices {config.devices}, this monitor offers {self.config.devices}"
            )
        self.disks.check_config(config.disks)

    def enter_kernel(self, entry: Entry) -> None:
        """The machine state that a boot protocol promises a kernel."""
        v = self.vcpu
        v.set_control(CR0_PE, 0, 0)
        v.eflags = 2
        v.gdt_base, v.gdt_limit = entry.gdt
        self.load_flat_segments(entry.code, entry.data)
        self.cpu.load_fpu(FPU_AFTER_RESET)
        for register in range(8):
            self.cpu.set_general(register, entry.general.get(register, 0))
        self.cpu.set_eip(entry.eip)

    def load_flat_segments(self, code: int = 0x08, data: int = 0x10) -> None:
        """Code and data, 4 GiB from address 0, of the kernel; under these selectors."""
        for index in range(6):
            if index == CS:
                self.vcpu.set_segment(index, code, 0, 0xFFFFFFFF, FLAT_CODE)
            else:
                self.vcpu.set_segment(index, data, 0, 0xFFFFFFFF, FLAT_DATA)

    def close(self) -> None:
        """Let go of everything. The machine cannot be used any more."""
        if not self._closed:
            self._closed = True
            self.pacer.close()
            if not self.running:
                self.cpu.close()
                self.disks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def owned(self) -> bool:
        """False while another monitor has the guest, or nobody knows who has it: then it must not run."""
        return self._owned

    @owned.setter
    def owned(self, owned: bool) -> None:
        self._owned = owned
        if not owned:
            self.disks.release()
            return
        with contextlib.suppress(HostError):  # a peer may be slow to let go of a disk: `run` tries again
            self.disks.hold()

    # ---------------------------------------------------------------- running

    def run(self, *, instructions: int | None = None, until: int | None = None) -> Stop:
        """Run until something stops the guest, and say what: see ``Stop``.

        At most ``instructions`` more, or to the count ``until`` since boot (exact clock only: under ``wall``
        nothing is counted). Reasons are ``limit``, ``stop`` (somebody asked), ``exit`` (isa-debug-exit; the
        status is in ``status``), ``reset``, ``triple-fault``, ``halted``, ``idle`` (it waits for input),
        ``moved`` (it was given away while it was held) and ``error`` (it wants what is not supported).
        """
        if self._closed:
            raise UsageError("the machine is closed")
        with self.gate.passing():
            if self._failure is not None:
                raise self._failure
            if not self.owned:
                raise HypervisorError("this monitor does not own the guest: it may be running elsewhere")
            self.disks.hold()
            limit = FOREVER if until is None else until
            if instructions is not None:
                limit = min(limit, self.instructions + instructions)
            if limit != FOREVER and not self.clock.exact:
                raise UsageError("the wall clock counts no instructions: run without a limit, and stop")
            self.ended = None
            self._take_input()
            with self.pacer:
                stop = self._run(limit)
            if stop.reason in ("exit", "reset"):
                self.ended = stop
        if self.ended is not None:
            self.outlet.await_end(stop)
        return stop

    def _run(self, limit: int) -> Stop:
        while True:
            try:
                self._check_lost()
                stop: Stop = self.monitor.run(limit)
                return stop
            except FramesLostError:
                if self.rescue is None:
                    raise
                self._rescue()
                self.pacer.align()

    def _check_lost(self) -> None:
        """A guest that can be rescued need not run until it misses something."""
        if self.absent.lost is not None and self.rescue is not None:
            raise FramesLostError(str(self.absent.lost))

    def _rescue(self) -> None:
        rescue, self.rescue = self.rescue, None
        assert rescue is not None
        self._failure = HypervisorError("the guest was given up half way back to where it was")
        try:
            rescue()
        except HypervisorError as error:
            self._failure = error
            raise
        self._failure = None

    @property
    def ram(self) -> memoryview:
        """All of guest RAM, indexed by guest-physical address; waits for frames that are absent.

        Who stores to it calls ``paging.about_to_write``. Raises FramesLostError.
        """
        try:
            self.absent.complete()
        except FramesLostError:
            if self.rescue is None or self.running:
                raise
            self._rescue()
        return self._ram

    @property
    def running(self) -> bool:
        """Is a ``run`` under way? Its guest may be held."""
        return self.gate.running

    def visit(self, work: Callable[[], T]) -> T:
        """Do ``work`` while the guest stands still, between two instructions; from any thread but its own.

        A guest that runs goes on afterwards. Returns, or raises, what ``work`` does.
        """
        return self.gate.visit(work)

    def hold(self) -> None:
        """Make the guest stand still, also inside of a ``run``, until ``release``; from any thread but its own.

        It may be captured then. If it is released by a monitor that does not own it any more, the run ends.
        """
        self.gate.hold()

    def release(self) -> None:
        """Let a guest go on that was held."""
        self.gate.release()

    def _between_entries(self) -> None:
        """On the guest's thread, after a nudge."""
        self._check_lost()
        self._take_input()
        if self.gate.wanted:
            self.clock.stop()
            self.gate.stand()
            self.clock.start()
            self.pacer.align()
            if not self._owned:
                self.monitor.stop = Stop("moved", "another monitor has the guest")
        self._look_for_text()  # what was held may have been let out

    def run_until(self, text: str | bytes, *, instructions: int | None = None) -> Stop:
        """Run until the guest has printed ``text`` (reason ``text``), or as ``run``.

        Only what it prints from now on counts. Where exactly it stops is not part of the promise.
        """
        wanted = text.encode() if isinstance(text, str) else text
        limit = None if instructions is None else self.instructions + instructions
        self._awaited = Awaited(wanted, len(self.console.output))
        try:
            return self.run(until=limit)
        finally:
            self._awaited = None

    def request_stop(self) -> None:
        """Stop the run that is under way, or the next one; from any thread, never lost."""
        self.monitor.stop_wanted = True
        self.nudge()

    def nudge(self) -> None:
        """Something arrived from outside: make the monitor look."""
        self.cpu.request_stop()
        self.pacer.wake()

    @property
    def pace(self) -> bool:
        """Does an idle guest's time keep to ours (instead of jumping ahead)?"""
        return self.pacer.paced

    @pace.setter
    def pace(self, wanted: bool) -> None:
        self.pacer.paced = wanted

    @property
    def technique(self) -> str:
        """Under which technique the guest runs now: under ``auto``, ``trap`` or ``patch``."""
        name: str = self.monitor.sites.technique.name
        return "trap" if name == "auto" else name

    @property
    def hole(self) -> Hole | None:
        """What ended the time of ``trap`` under ``auto``, if something did."""
        return self.monitor.sites.hole

    @property
    def instructions(self) -> int:
        """Instructions retired since boot (and events delivered: each takes the time of one)."""
        return int(self.cpu.get_retired())

    def _take_input(self) -> None:
        data = self.console.take()
        if data:
            # In this order, so that the moment alone decides what comes of it.
            self.devices.advance(self.clock.update())
            if self.journal is not None:
                self.journal.inputs.append(Input(*self.moment, data))
            self.devices.receive(data)

    def _output(self, data: bytes) -> None:
        if self._repetition is not None:
            data = self._repetition.new(data)
        if self.journal is not None:
            self.journal.told += len(data)
        self.outlet.say(data)
        self._look_for_text()

    def _look_for_text(self) -> None:
        """Stop the guest, after this instruction, if it has printed what somebody waits for."""
        awaited = self._awaited
        if awaited is not None and awaited.came(self.console.output) and self.monitor.stop is None:
            self.monitor.stop = Stop("text", awaited.text.decode(errors="replace"))

    def _exit(self, status: int) -> None:
        self.monitor.stop = Stop("exit", str(status), status)

    def _reset(self) -> None:
        self.monitor.stop = Stop("reset", "the guest reset the machine")

    # ---------------------------------------------------------------- state

    @property
    def ram_file(self) -> int:
        """The descriptor of the memory file that ``ram`` is a shared mapping of."""
        return int(self.memory.file)

    def present(self) -> bytes:
        """A byte for each page of RAM: 0 where it has never been touched, so that it is all zero."""
        return self.memory.present()

    def capture(self) -> MachineState:
        """The machine without its RAM. Changes nothing: captured twice, it is the same."""
        if not self.gate.open:
            raise UsageError("a machine must be stopped to be captured")
        self._take_input()
        return self._capture()

    def _capture(self) -> MachineState:
        self.devices.advance(self.clock.update())
        return MachineState(
            config=self.config,
            identity=self.identity,
            epoch=self.epoch,
            cpu=capture_cpu(self.vcpu),
            clock=ClockState(self.instructions, self.clock.skipped),
            devices=self.devices.state(),
            disks=self.disks.states(),
        )

    def restore(self, state: MachineState) -> None:
        """Become the machine that ``state`` describes. ``ram`` was filled before; raises StateError, and then
        nothing has changed.
        """
        self._restore(state, self._check_fit(state))

    def _restore(self, state: MachineState, devices: dict[str, Any]) -> None:
        self.devices.load(devices)
        self.disks.load(state.disks)
        self.identity = state.identity
        self.epoch = state.epoch
        self.cpu.set_retired(state.clock.instructions)
        self.clock.skipped = state.clock.skipped
        self.clock.update()
        self.monitor.near = 0
        self.monitor.begun = -1
        self.paging.forget_code()
        restore_cpu(self.vcpu, state.cpu)

    def check(self, state: MachineState) -> dict[str, Any]:
        """Raise StateError unless this machine could become that one, wherever what its disks hold now is not the
        reason. Returns the devices' registers, as they were validated.
        """
        for field in ("memory", "clock", "devices"):
            theirs, ours = getattr(state.config, field), getattr(self.config, field)
            if theirs != ours:
                raise StateError(f"config.{field}: the state has {theirs!r}, this machine {ours!r}")
        check_cpu(state.cpu)
        self.disks.check_config(state.config.disks)
        return self.devices.check(state.devices)

    def _check_fit(self, state: MachineState) -> dict[str, Any]:
        """Could this machine become that one, here and now?"""
        if self.running:
            raise UsageError("a machine must be stopped to be restored")
        devices = self.check(state)
        # What a disk holds is sure only while nobody else may write to it.
        self.disks.hold()
        self.disks.check(state.disks)
        return devices

    # ---------------------------------------------------------------- living through it again

    @property
    def moment(self) -> Moment:
        """Where the guest is in its time."""
        return Moment(self.instructions, self.clock.skipped)

    @property
    def replayable(self) -> bool:
        """Do state and inputs decide what the guest does? (A persistent disk's earlier contents are gone.)"""
        return self.clock.exact and not any(disk.persistent for disk in self.disks.list)

    def freeze(self, frames: bytes | bytearray) -> CopyOnWrite:
        """Keep what the frames marked in ``frames`` hold now, while the guest stands still."""
        return CopyOnWrite(self.memory, self.paging, frames)

    def go_back(self, state: MachineState, told: int) -> None:
        """Become what this machine was earlier; RAM was put back. ``replay`` follows.

        For the guest's own thread. Since then the guest told ``told`` bytes, which it is not to tell again.
        """
        # An instruction may have been given up half done.
        if self.paging.loans:
            self.paging.return_loans()
        self.paging.settle()
        self.monitor.stop = None
        epoch = self.epoch
        self._restore(state, self.devices.check(state.devices))
        self.epoch = epoch
        self._repetition = Repetition(
            told, bytes(self.console.output[max(len(self.console.output) - told, 0) :])
        )

    def replay(self, inputs: Iterable[Input], end: Moment) -> MachineState:
        """Live through it again, up to ``end``; returns the state there. Raises StateError if it goes another way."""
        Replay(self.monitor, self.clock, self.devices).run(inputs, end)
        return self._capture()

    def snapshot(self) -> Snapshot:
        """A copy of everything, in memory."""
        return Snapshot(self.capture(), bytes(self.ram))

    def load_snapshot(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of this machine, or become that of another with the same configuration."""
        if len(snapshot.ram) != len(self.ram):
            raise StateError(
                f"the snapshot has {len(snapshot.ram)} bytes of RAM, this machine {len(self.ram)}"
            )
        self._check_fit(snapshot.state)
        self.memory.mark_dirty(0, len(self.ram))
        self.ram[:] = snapshot.ram
        self.restore(snapshot.state)

    def digest(self) -> str:
        """One number for all that the guest could ever observe: see ``state.digest``."""
        return digest(self.capture(), self.ram, self.disks.list)

    def state_digest(self) -> dict[str, str]:
        """The digest of each component, to find out where two machines differ."""
        return digests(self.capture(), self.ram, self.disks.list)


__all__ = ["AddressError", "Console", "Snapshot", "Stop", "VirtualMachine"]
