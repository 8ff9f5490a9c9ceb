"""What a trap costs, and how fast a guest runs that does not trap: beside bare Unicorn.

Times are of the measuring thread's processor time, so that a busy host disturbs them less. The references are a bare exit driven in C, the same loop through the plain ``unicorn`` package, and bare
Unicorn running the same code from pages mapped as fast as it can map them (PAE with NX).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from time import thread_time

import unicorn
from unicorn import x86_const as x86

from hypervisor.bench import Record, compare, record
from hypervisor.bench._programs import (
    CLI_LOOP,
    CODE,
    CPU_LOOP,
    DATA,
    LOAD_LOOP,
    MEMORY_LOOP,
    STORE_LOOP,
    loop,
    machine,
    page_misses,
    place,
    system_calls,
)
from hypervisor.boot.entry import Entry
from hypervisor.ext.cpu import Cpu
from hypervisor.ext.memory import PhysicalMemory
from hypervisor.hardware.x86 import CS, SS
from hypervisor.techniques import Trap

NX = 1 << 63
PDPT = 0x400000
BARE_MEMORY = 8 << 20


def per(seconds: float, count: int) -> float:
    return seconds / count * 1e9


# -------------------------------------------------------------------- ours


def emulated_cli(count: int) -> float:
    """Nanoseconds for each CLI; the jump back is in it, as in the bare loop."""
    with machine() as vm:
        place(vm, CODE, CLI_LOOP)
        vm.run(instructions=1000)
        begin = thread_time()
        vm.run(instructions=2 * count)
        return per(thread_time() - begin, count)


def system_call(count: int) -> float:
    """INT 0x80 in ring 3, the kernel's IRET, and a jump: nanoseconds for the round trip."""
    with machine() as vm:
        system_calls(vm)
        vm.run(instructions=1000)
        begin = thread_time()
        vm.run(instructions=3 * count)
        return per(thread_time() - begin, count)


def shadow_miss(count: int) -> float:
    """Nanoseconds to fill one shadow entry; the reload of CR3 for every 256 of them is in it.

    In the lazy form: the traced one has all entries still after a reload.
    """
    with machine(paging="lazy") as vm:
        pages = page_misses(vm)
        vm.run(instructions=10 * pages)
        before, begin = vm.paging.fills, thread_time()
        vm.run(instructions=4 * count)
        return per(thread_time() - begin, max(1, vm.paging.fills - before))


def ring_switch(count: int) -> float:
    """Nanoseconds to change CS and SS of the emulated CPU to ring 3 and back, halved."""
    with machine() as vm:
        change = vm.cpu.set_segment
        rounds = range(count // 2)
        begin = thread_time()
        for _ in rounds:
            change(SS, 0x23, 0, 0xFFFFFFFF, 0xCFF300)
            change(CS, 0x1B, 0, 0xFFFFFFFF, 0xCFFB00)
            change(SS, 0x11, 0, 0xFFFFFFFF, 0xCFB300)
            change(CS, 0x09, 0, 0xFFFFFFFF, 0xCFBB00)
        return per(thread_time() - begin, count)


def guest_loop(code: bytes, count: int, clock: str) -> float:
    """Nanoseconds for one round of a loop in a guest."""
    with machine(clock) as vm:
        place(vm, CODE, loop(code, 1000))
        vm.run()
        vm.enter_kernel(Entry(CODE))
        place(vm, CODE, loop(code, count))
        vm.paging.forget_code()
        begin = thread_time()
        vm.run()
        return per(thread_time() - begin, count)


# -------------------------------------------------------------------- references


def bare_exit(count: int) -> float:
    """An exit and a re-entry in ring 1, all in C, without a monitor: nanoseconds."""
    memory = PhysicalMemory(1 << 20)
    cpu = Cpu(memory, Trap.intercepts, exact=False)
    cpu.set_eip(0x20000)
    memory.write(0x20000, CLI_LOOP)
    cpu.bare_exits(1000, 1)
    begin = thread_time()
    cpu.bare_exits(count, 1)
    return per(thread_time() - begin, count)


class Bare:
    """Bare Unicorn in 32-bit mode: code in one page, data in NX pages if ``nx``."""

    def __init__(self, code: bytes, nx: bool = True) -> None:
        engine = self.engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        engine.ctl_set_cpu_model(x86.UC_CPU_X86_QEMU64)
        engine.mem_map(0, BARE_MEMORY)
        engine.mem_write(CODE, code)
        entries = [(PDPT + 0x1000 + 0x1000 * i) | 1 for i in range(1)]
        engine.mem_write(PDPT, b"".join(e.to_bytes(8, "little") for e in entries))
        for i in range(BARE_MEMORY >> 21):
            table = PDPT + 0x2000 + 0x1000 * i
            engine.mem_write(PDPT + 0x1000 + 8 * i, (table | 7).to_bytes(8, "little"))
            for j in range(512):
                at = i << 21 | j << 12
                entry = at | 0x67 | (NX if nx and DATA <= at < PDPT else 0)
                engine.mem_write(table + 8 * j, entry.to_bytes(8, "little"))
        engine.reg_write(x86.UC_X86_REG_MSR, (0xC0000080, 1 << 11))
        engine.reg_write(x86.UC_X86_REG_CR4, 0x20)
        engine.reg_write(x86.UC_X86_REG_CR3, PDPT)
        engine.reg_write(x86.UC_X86_REG_CR0, 0x80010011)

    def run(self, count: int, end: int) -> float:
        engine = self.engine
        engine.reg_write(x86.UC_X86_REG_ECX, count)
        engine.reg_write(x86.UC_X86_REG_ESI, DATA)
        begin = thread_time()
        engine.emu_start(CODE, end)
        return thread_time() - begin


def bare_loop(code: bytes, count: int) -> float:
    """Nanoseconds for one round of a loop on bare Unicorn."""
    bare = Bare(code)
    bare.run(1000, CODE + len(code))
    return per(bare.run(count, CODE + len(code)), count)


def binding_exit(count: int) -> float:
    """An INT that stops the run, and the next run, through the unicorn package: nanoseconds."""
    bare = Bare(b"\xcd\x80" * 64)
    engine = bare.engine
    engine.hook_add(unicorn.UC_HOOK_INTR, lambda uc, number, data: uc.emu_stop())
    begin = thread_time()
    for i in range(count):
        at = CODE + 2 * (i % 32)
        engine.emu_start(at, at + 8)
    return per(thread_time() - begin, count)


class Interpreted:
    """A second process of the same monitor with HV_PURE=1, which measures when told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from hypervisor.bench.traps import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"HV_PURE": "1"},
        )

    def measure(self, name: str, count: int) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, count]) + "\n")
        self.process.stdin.flush()
        return float(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.communicate()


SERVED: dict[str, Callable[[int], float]] = {"emulated_cli": emulated_cli, "system_call": system_call}


def serve() -> None:
    """The other end of ``Interpreted``."""
    for line in sys.stdin:
        name, count = json.loads(line)
        print(SERVED[name](count), flush=True)


# -------------------------------------------------------------------- the table


def measure(quick: bool) -> Iterator[Record]:
    """The figures, each beside its reference."""
    n = 20_000 if quick else 200_000
    few = n // 10
    rounds = {"rounds": 5}
    interpreted = Interpreted()
    try:
        compiled, bare = compare(lambda: emulated_cli(n), lambda: bare_exit(n), **rounds)
        yield record("exit and re-entry in C, bare", bare, "ns")
        yield record(
            "CLI emulated, compiled",
            compiled,
            "ns",
            reference=bare,
            reference_name="bare exit",
            target="<= 3",
        )
        pure, _ = compare(lambda: interpreted.measure("emulated_cli", few), lambda: 1.0, **rounds)
        yield record("CLI emulated, interpreted (HV_PURE=1)", pure, "ns", target="<= 2500")
        binding, _ = compare(lambda: binding_exit(few), lambda: 1.0, **rounds)
        yield record(
            "exit and re-entry, unicorn package", binding, "ns", reference=bare, reference_name="bare exit"
        )
        calls, bare = compare(lambda: system_call(few), lambda: bare_exit(few), **rounds)
        yield record("system call and return", calls, "ns", reference=bare, reference_name="bare exit")
        misses, bare = compare(lambda: shadow_miss(few), lambda: bare_exit(few), **rounds)
        yield record("shadow miss", misses, "ns", reference=bare, reference_name="bare exit")
        switch, bare = compare(lambda: ring_switch(few), lambda: bare_exit(few), **rounds)
        yield record(
            "change of ring, registers in place", switch, "ns", reference=bare, reference_name="bare exit"
        )
    finally:
        interpreted.close()
    yield from speeds(quick)


def speeds(quick: bool) -> Iterator[Record]:
    """Code that does not trap, beside the same code on bare Unicorn."""
    n = 5_000_000 if quick else 20_000_000
    for name, code, targets in (
        ("store to data", STORE_LOOP, ("<= 1.3", None)),
        ("load from data", LOAD_LOOP, (None, None)),
        ("processor-bound loop", CPU_LOOP, ("<= 1.05", "<= 1.67")),
        ("memory-bound loop", MEMORY_LOOP, ("<= 1.05", "<= 1.67")),
    ):
        for clock, target in zip(("wall", "exact"), targets, strict=True):
            ours, bare = compare(
                lambda code=code, clock=clock: guest_loop(code, n, clock),  # type: ignore[misc]
                lambda code=code: bare_loop(code, n),  # type: ignore[misc]
            )
            yield record(
                f"{name}, --clock {clock}",
                ours,
                "ns",
                reference=bare,
                reference_name="bare Unicorn",
                target=target,
            )
