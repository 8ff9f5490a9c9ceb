"""Linux's 32-bit boot protocol, with a kernel made here; Debian's own is in test_linux.py."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hypervisor.boot import linux
from hypervisor.errors import ImageError, UsageError
from hypervisor.machine import VirtualMachine
from hypervisor.techniques import TECHNIQUES

MEMORY = 8 << 20
SAYS = bytes.fromhex(
    "8cc8 3d10000000 7517"  # mov eax, cs; cmp eax, 0x10; jne end
    "8cd8 3d18000000 750e"  # mov eax, ds; cmp eax, 0x18; jne end
    "8bb628020000"  # mov esi, [esi+0x228]: the command line
    "66baf803 ac 3c00 7403 ee ebf8"  # mov dx, 0x3f8; lodsb; cmp al, 0; je end; out dx, al; jmp
    "b000 e6f4"  # end: out 0xf4, al
)


def kernel(version: int = 0x20F, high: int = 1, code: bytes = SAYS, size: int | None = None) -> bytes:
    """A bzImage with two sectors of setup and this kernel proper."""
    image = bytearray(3 * 512)
    image[0x1F1] = 2
    struct.pack_into("<I", image, 0x1F4, (len(code) + 15) // 16 if size is None else size)
    image[0x201] = 0x66
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, version)
    image[0x211] = high
    struct.pack_into("<I", image, 0x22C, 0x7FFFFFFF)
    struct.pack_into("<I", image, 0x238, 2047)
    struct.pack_into("<QI", image, 0x258, 0x200000, 0x100000)
    return bytes(image + code + bytes(-len(code) % 16))


def load(image: bytes, append: str = "", initrd: bytes = b"") -> tuple[bytearray, linux.Entry]:
    ram = bytearray(MEMORY)
    return ram, linux.load(memoryview(ram), "vmlinuz", image, append, initrd)


@pytest.mark.parametrize("technique", [name for name in TECHNIQUES if name != "trap"])
def test_a_kernel_finds_its_segments_and_its_command_line(tmp_path: Path, technique: str) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(kernel())
    with VirtualMachine.boot(path, memory=MEMORY, technique=technique, append="root=/dev/fd0") as vm:
        assert vm.run(instructions=1000).reason == "exit"
        assert vm.console.output == b"root=/dev/fd0"


def test_the_zero_page_says_what_firmware_would() -> None:
    ram, entry = load(kernel(), "quiet", b"RAMDISK!" * 100)
    page = ram[linux.ZERO_PAGE : linux.ZERO_PAGE + 4096]
    assert page[0x1F1:0x268] != bytes(0x77)
    assert page[0x210] == 0xFF
    at, size = struct.unpack_from("<II", page, 0x218)
    assert ram[at : at + size] == b"RAMDISK!" * 100
    assert at % 4096 == 0
    assert at + size <= MEMORY
    ranges = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * n) for n in range(page[0x1E8])]
    assert (0x100000, MEMORY - 0x100000, 1) in ranges
    assert ranges[0] == (0, 0x9FC00, 1)
    assert entry.eip == 0x100000
    assert ram[entry.eip : entry.eip + len(SAYS)] == SAYS
    base, limit = entry.gdt
    assert struct.unpack_from("<Q", ram, base + entry.code)[0] == 0x00CF9B000000FFFF
    assert base + limit + 1 == base + entry.data + 8


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (kernel()[:0x220], "cut off"),
        (kernel(version=0x209), "boot protocol 2.09"),
        (kernel(high=0), "zImage"),
        (kernel(size=1000), "truncated"),
    ],
)
def test_a_bad_kernel_is_refused_in_one_line(image: bytes, complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint) as caught:
        load(image)
    assert "\n" not in str(caught.value)


def test_a_kernel_that_does_not_fit_says_what_it_needs() -> None:
    with pytest.raises(ImageError, match="at least 10 MiB of memory, the machine has 8"):
        load(kernel(), initrd=bytes(6 << 20))
    with pytest.raises(ImageError, match="at most 2047 bytes"):
        load(kernel(), append="x" * 2048)


def test_modules_and_ram_disks_go_with_their_protocols(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(kernel())
    with pytest.raises(UsageError, match="takes no modules"):
        VirtualMachine.boot(path, memory=MEMORY, modules=[path])
    with pytest.raises(UsageError, match="only a Linux kernel"):
        VirtualMachine.boot("tern", initrd=path)
