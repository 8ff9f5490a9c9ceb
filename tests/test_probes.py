"""guests/probes reads the same back from our devices as from QEMU's: PIC, PIT, UART, RTC, i8042 and IDE.

Each line is one probe; lines that begin with ``~`` depend on time and are compared by their names only.
"""

from __future__ import annotations

import io
import random
import subprocess

import pytest
from port_script import MISSING
from tern_guest import GUESTS, build

from hypervisor.machine import VirtualMachine
from hypervisor.state.stream import StreamReader, write_stream

DISK = random.Random(1).randbytes(4096 * 512)


@pytest.fixture(scope="module")
def kernel():
    build()
    return GUESTS / "build" / "probes.elf"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(DISK)
    return path


def transcript(console: bytes) -> list[str]:
    """The lines as they are to be compared."""
    lines = console.decode("latin-1").splitlines()
    assert lines[-1] == "== end", lines[-3:]
    return [line.partition(":")[0] if line.startswith("~") else line for line in lines]


def on_qemu(kernel, image) -> bytes:
    """QEMU's clock counts instructions too, and its second channel is empty like ours."""
    options = ["-icount", "shift=3,sleep=off", "-rtc", "base=2000-01-01T00:00:00,clock=vm", "-no-reboot"]
    options += ["-nodefaults", "-vga", "cirrus", "-drive", "if=floppy,index=0"]
    options += ["-drive", f"file={image},format=raw,if=ide,index=0,snapshot=on"]
    options += ["-display", "none", "-serial", "stdio", "-monitor", "none", "-kernel", kernel]
    options += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
    command = ["qemu-system-i386", "-M", "isapc", "-m", "32", *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    return done.stdout


@pytest.mark.qemu
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_every_register_reads_back_as_on_qemu(kernel, image):
    with VirtualMachine.boot(kernel, disks=[image]) as vm:
        stop = vm.run(instructions=1_000_000_000)
        assert (stop.reason, stop.status) == ("exit", 1)
        here = transcript(bytes(vm.console.output))
    there = transcript(on_qemu(kernel, image))
    assert len(here) > 500
    assert here == there
    assert image.read_bytes() == DISK


@pytest.mark.slow
def test_every_register_reads_back_the_same_in_a_machine_that_moves(kernel, image):
    """Into a stream and out of it, thirty times on the way, at counts in every part."""
    with VirtualMachine.boot(kernel, disks=[image]) as vm:
        vm.run(instructions=1_000_000_000)
        end, digest, expected = vm.instructions, vm.digest(), transcript(bytes(vm.console.output))
    seen = bytearray()
    vm = VirtualMachine.boot(kernel, disks=[image])
    for count in sorted(random.Random(2).sample(range(1, end), 30)):
        vm.run(until=count)
        stream = io.BytesIO()
        write_stream(vm.capture(), vm.ram, stream.write)
        seen += vm.console.output
        vm.close()
        reader = StreamReader(io.BytesIO(stream.getvalue()).readinto)
        state = reader.read_state()
        vm = VirtualMachine.create(state.config, [image])
        reader.read_ram(vm.ram)
        vm.restore(state)
    with vm:
        vm.run(instructions=1_000_000_000)
        assert (vm.instructions, vm.digest()) == (end, digest)
        assert transcript(bytes(seen + vm.console.output)) == expected
