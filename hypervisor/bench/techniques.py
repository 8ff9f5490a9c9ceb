"""What each technique and each form of paging costs: single operations of a kernel, and whole workloads beside QEMU TCG.

The operations are loops in a kernel of a few pages with paging on, in exact time; each row is nanoseconds of processor
time for one round of the loop, which its description names, beside the same under the default (``trap``, traced).
The workloads are those of `hv bench guest`, and a boot of Debian's Linux to its shell (not under ``trap``, where it does
not get there), in exact time beside QEMU in the same run. `--chart FILE` draws all of it.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import struct
from collections.abc import Callable, Iterator, Sequence
from time import thread_time
from typing import Final

from hypervisor.bench import ROUNDS, Record, guest, linux, record
from hypervisor.bench._programs import (
    CODE,
    GDT,
    HANDLER,
    IDT,
    KERNEL_STACK,
    descriptor,
    place,
    system_calls,
)
from hypervisor.boot.entry import Entry
from hypervisor.errors import HostError
from hypervisor.machine import VirtualMachine
from hypervisor.paging.forms import DEFAULT_FORM, forms_for
from hypervisor.state.model import MachineConfig
from hypervisor.techniques import TECHNIQUES, Guest, Trap

MEMORY: Final = 8 << 20
DIRECTORIES: Final = (0x10000, 0x20000)
TABLES: Final = (0x12000, 0x22000)
"""Of each address space, two directories' worth of 4 MiB: all memory where it is."""
LOW_DATA: Final = 0x300000
HOLE: Final = 0x7FF000
"""A page that is not present."""
PAGES: Final = 16
"""That a process touches between two context switches."""
WARM: Final = 20_000
"""Instructions before the clock starts."""
AT_LEAST: Final = 0.3
"""Seconds that an operation is measured."""
DEFAULT: Final = (Trap.name, DEFAULT_FORM)
WAYS: Final = [
    (name, paging)
    for name, technique in TECHNIQUES.items()
    if name != "auto"
    for paging in forms_for(technique.nested)
]  # `auto` is one of two others
LINUX_WAYS: Final = [way for way in WAYS if way[0] != Trap.name]
WORKLOADS: Final = ("selftest", "fork and exec")


def _i32(value: int) -> bytes:
    return struct.pack("<I", value)


def _paged(vm: VirtualMachine, body: bytes) -> None:
    """A kernel that turns paging on, counts rounds in EDI, and does ``body`` for ever."""
    for directory, table in zip(DIRECTORIES, TABLES, strict=True):
        for region in range(2):
            place(vm, directory + 4 * region, _i32(table + 0x1000 * region | 3))
        for page in range(MEMORY >> 12):
            present = page != HOLE >> 12
            place(vm, table + 4 * page, _i32(page << 12 | 0x62 | present))
    place(vm, GDT, bytes(8) + descriptor(0, 0xFFFFF, 0x9A, 0xC) + descriptor(0, 0xFFFFF, 0x92, 0xC))
    place(vm, IDT + 14 * 8, struct.pack("<HHHH", HANDLER & 0xFFFF, 8, 0x8E00, HANDLER >> 16))
    place(vm, 0x4000, struct.pack("<HI", 23, GDT))
    place(vm, 0x4008, struct.pack("<HI", 0x7FF, IDT))
    # add esp,4; add dword [esp],6; iret: past the instruction of six bytes that faulted
    place(vm, HANDLER, bytes.fromhex("83c404 83042406 cf"))
    # lgdt; lidt; mov esp; mov eax,directory; mov cr3,eax; mov eax,cr0; or eax,1<<31; mov cr0,eax; jmp 1f; 1:
    start = bytes.fromhex("0f011500400000 0f011d08400000 bc") + _i32(KERNEL_STACK)
    start += b"\xb8" + _i32(DIRECTORIES[0]) + bytes.fromhex("0f22d8 0f20c0 0d00000080 0f22c0 eb00")
    # xor edi,edi; then: body; inc edi; jmp body
    body += b"\x47\xe9"
    place(vm, CODE, start + b"\x31\xff" + body + struct.pack("<i", -len(body) - 4))


def _touch(first: int, pages: int) -> bytes:
    return b"".join(b"\xa1" + _i32(first + 4096 * page) for page in range(pages))


def _body(code: bytes) -> Callable[[VirtualMachine], None]:
    return lambda vm: _paged(vm, code)


OPERATIONS: Final[dict[str, Callable[[VirtualMachine], None]]] = {
    "CLI": _body(b"\xfa"),
    "POPF, with the PUSH before it": _body(bytes.fromhex("6a02 9d")),
    "system call, and the IRET from it": system_calls,
    # mov eax,[HOLE], in its form of six bytes
    "page fault, its handler and the IRET": _body(bytes.fromhex("8b05") + _i32(HOLE)),
    # mov eax,[pte]; mov [pte],eax; invlpg [page]; mov eax,[page]
    "page-table entry written, INVLPG, page read": _body(
        b"\xa1" + _i32(TABLES[0] + (LOW_DATA >> 10)) + b"\xa3" + _i32(TABLES[0] + (LOW_DATA >> 10))
        + bytes.fromhex("0f013d") + _i32(LOW_DATA) + _touch(LOW_DATA, 1)
    ),
    # mov ebx,directory; mov cr3,ebx; each page; twice
    f"context switch, to {PAGES} pages and back": _body(
        b"".join(
            b"\xbb" + _i32(directory) + bytes.fromhex("0f22db") + _touch(LOW_DATA, PAGES)
            for directory in reversed(DIRECTORIES)
        )
    ),
    "CR0 read": _body(bytes.fromhex("0f20c0")),
    "port read": _body(bytes.fromhex("e421")),
}  # fmt: skip
ROUNDS_OF_CALL: Final = 3
"""Instructions in a round of ``system_calls``, which counts none: INT, IRET and JMP."""


def operation(name: str, technique: str, paging: str, *, quick: bool) -> float:
    """Nanoseconds for one round."""
    with VirtualMachine.create(MachineConfig(MEMORY, technique, "exact"), paging=paging) as vm:
        vm.enter_kernel(Entry(CODE))
        OPERATIONS[name](vm)
        counted = OPERATIONS[name] is not system_calls
        vm.run(instructions=WARM)
        rounds, instructions, passed = vm.cpu.general(7), vm.instructions, 0.0
        piece = WARM
        while passed < (AT_LEAST / 10 if quick else AT_LEAST):
            begin = thread_time()
            if vm.run(instructions=piece).reason != "limit":
                raise HostError(f"bench techniques: {name}: the guest ended under {technique}")
            passed += thread_time() - begin
            piece *= 2
        if counted:
            done = vm.cpu.general(7) - rounds & 0xFFFFFFFF
        else:
            done = (vm.instructions - instructions) // ROUNDS_OF_CALL
        return passed / max(done, 1) * 1e9


def measure(quick: bool) -> Iterator[Record]:
    """Operations beside the default's, workloads beside QEMU's; each under every technique and form of paging."""
    if shutil.which(guest.QEMU) is None:
        raise HostError(f"bench techniques: {guest.QEMU} is needed for comparison (Debian: qemu-system-x86)")
    for name in OPERATIONS:
        times = _in_turn(lambda way, name=name: operation(name, *way, quick=quick), quick)  # type: ignore[misc]
        for way, value in times.items():
            yield record(
                f"{name}: {', '.join(way)}",
                value,
                "ns",
                reference=times[DEFAULT],
                reference_name=", ".join(DEFAULT),
            )
    for workload in guest.WORKLOADS:
        if not workload.name.startswith(WORKLOADS):
            continue
        amount = max(workload.amount // 10, 1) if quick else workload.amount
        for way, mine, theirs in _workload(workload, amount, quick):
            yield record(
                f"{workload.name.format(amount)}: {', '.join(way)}",
                mine,
                "s",
                reference=theirs,
                reference_name="QEMU TCG",
            )
    linux.images()
    ways = [(Guest.name, DEFAULT_FORM)] if quick else LINUX_WAYS
    boots = _in_turn(lambda way: linux.ours(way[0], "exact", way[1]).processor, quick, ways)
    theirs = statistics.median(linux.theirs().processor for _ in range(1 if quick else ROUNDS))
    for way, mine in boots.items():
        yield record(
            f"Linux boot, processor time: {', '.join(way)}",
            mine,
            "s",
            reference=theirs,
            reference_name="QEMU TCG",
        )


def _in_turn(
    work: Callable[[tuple[str, str]], float], quick: bool, ways: Sequence[tuple[str, str]] = WAYS
) -> dict[tuple[str, str], float]:
    """Medians, one way after the other in each round."""
    times: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for _, way in itertools.product(range(1 if quick else ROUNDS), ways):
        times[way].append(work(way))
    return {way: statistics.median(values) for way, values in times.items()}


def _workload(
    workload: guest.Workload, amount: int, quick: bool
) -> Iterator[tuple[tuple[str, str], float, float]]:
    """Seconds for it, ours and QEMU's, less those of a run that does nothing else."""
    busy, idle = guest.typed(workload, amount), guest.typed(guest.IDLE, 0)

    def ours(way: tuple[str, str]) -> float:
        technique, paging = way
        return guest.ours(busy, "exact", None, technique, paging) - guest.ours(
            idle, "exact", None, technique, paging
        )

    mine = _in_turn(ours, quick)
    theirs = statistics.median(
        guest.theirs(busy, None) - guest.theirs(idle, None) for _ in range(1 if quick else ROUNDS)
    )
    for way, value in mine.items():
        yield way, max(value, guest.MINIMUM), max(theirs, guest.MINIMUM)
