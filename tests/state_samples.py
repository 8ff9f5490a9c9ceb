"""Small machines for the tests of state and migration: real states, no monitor underneath."""

from __future__ import annotations

import io
import random

from hypervisor.state.model import (
    ClockState,
    CpuState,
    DescriptorTable,
    DeviceState,
    DiskConfig,
    DiskState,
    MachineConfig,
    MachineState,
    Segment,
)
from hypervisor.state.stream import StreamReader, Summary, write_stream

MEMORY = 1 << 20


def sample_state(
    *, memory: int = MEMORY, identity: str = "0123456789abcdef" * 2, epoch: int = 7
) -> MachineState:
    """A machine in the middle of something, with no two fields of the same value."""
    segments = tuple(Segment(8 * n, n << 12, 0xFFFFF000 + n, 0xC093 + n) for n in range(1, 7))
    cpu = CpuState(
        general=(1, 2, 3, 0xFFFFFFFF, 5, 6, 7, 8),
        eip=0xC0100000,
        eflags=0x202,
        segments=segments,  # type: ignore[arg-type]
        ldtr=Segment(0, 0, 0, 1 << 16),
        tr=Segment(0x28, 0xC0000000, 0x67, 0x8B),
        gdtr=DescriptorTable(0xC0001000, 0x37),
        idtr=DescriptorTable(0xC0002000, 0x7FF),
        cr0=0x80010011,
        cr2=0xDEADBEEF,
        cr3=0x1000,
        cr4=0x10,
        debug=(0, 0, 0, 0, 0, 0, 0xFFFF0FF0, 0x400),
        fpu=bytes(range(256)) * 2,
        msrs={0x174: 8, 0x10: 1 << 40},
        halted=False,
        interrupt_shadow=True,
    )
    devices = {
        "pit": DeviceState(2, {"channels": [{"count": 11931, "mode": 2}, {}], "gate": True}),
        "pic": DeviceState(1, {"imr": [0xFB, 0xFF], "isr": [0, 0], "name": "8259"}),
        "uart": DeviceState(1, {"fifo": b"\x00hello\xff", "none": None, "negative": -5}),
    }
    return MachineState(
        config=MachineConfig(
            memory=memory,
            devices=("pic", "pit", "uart"),
            disks=(DiskConfig("empty.img", 3), DiskConfig("hda.img", 1 << 20)),
        ),
        identity=identity,
        epoch=epoch,
        cpu=cpu,
        clock=ClockState(123456789, 42),
        devices=devices,
        disks=(DiskState("0" * 32, {}), DiskState("fedcba98" * 4, {7: b"\x01" * 4096, 0: bytes(4096)})),
    )


def sample_ram(*, memory: int = MEMORY, seed: int = 1, filled: int = 6) -> bytearray:
    """Mostly empty RAM with ``filled`` pages of noise, the first and the last among them."""
    noise = random.Random(seed)
    ram = bytearray(memory)
    pages = memory // 4096
    for page in {0, pages - 1, *noise.sample(range(1, pages - 1), filled - 2)}:
        ram[page * 4096 : (page + 1) * 4096] = noise.randbytes(4096)
    return ram


def to_bytes(state: MachineState, ram: bytearray) -> bytes:
    """The stream of a machine."""
    out = io.BytesIO()
    write_stream(state, memoryview(ram), out.write)
    return out.getvalue()


def from_bytes(stream: bytes) -> tuple[MachineState, bytearray, Summary]:
    """The machine in a stream, as a caller would read it."""
    reader = StreamReader(io.BytesIO(stream).readinto)
    state = reader.read_state()
    ram = bytearray(state.config.memory)
    return state, ram, reader.read_ram(memoryview(ram))
