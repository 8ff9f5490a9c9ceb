"""Booting by the Multiboot 1 specification (version 0.6.96): ELF and flat images, command line, modules.

The kernel is entered as a boot loader would: 32-bit protected mode, flat segments, paging and
interrupts off, EAX = 0x2BADB002, EBX = address of the boot information.

What the specification leaves to the loader is as QEMU's ``-kernel`` does it (``hw/i386/multiboot.c``), so
that a kernel sees the same numbers on both::

    0x9000   the memory map, as the ISA PC's firmware reports it
    0x9500   the boot information
    ...      the kernel, where it wants to be
    behind   the list of modules; the command lines and the loader's name
    behind   the modules, each from a page's beginning

One thing differs on purpose: image and modules are named without the directories they came from, for
where a student keeps a file must not change the guest's state.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from hypervisor.boot import elf
from hypervisor.boot.entry import Entry
from hypervisor.errors import ImageError
from hypervisor.hardware.x86 import EAX, EBX

MAGIC = 0x1BADB002
BOOTED = 0x2BADB002
SEARCH = 8192
"""The header lies within the first 8 KiB of the file (section 3.1)."""

PAGE_ALIGN = 1 << 0
MEMORY_INFO = 1 << 1
ADDRESSES = 1 << 16
REQUIREMENTS = 0xFFFF
"""Header flags that a loader must not ignore if it does not know them (section 3.1.2)."""
KNOWN_REQUIREMENTS = PAGE_ALIGN | MEMORY_INFO

PAGE = 4096
MEMORY_MAP = 0x9000
INFO = 0x9500
"""Guest-physical address of the boot information."""
INFO_SIZE = 88
LOADER_NAME = b"hypervisor"
FIRST_DISK = 0x8000FFFF
"""``boot_device``: BIOS drive 0x80, no partition (section 3.3); there is none, and QEMU says the same."""

EXTENDED_DATA = 0x9FC00
"""The firmware keeps the last KiB below the hole (the Extended BIOS Data Area)."""
HOLE = 0xA0000
HIGH = 0x100000
AVAILABLE, RESERVED = 1, 2

I_MEMORY, I_BOOT_DEVICE, I_COMMAND_LINE, I_MODULES, I_MEMORY_MAP, I_LOADER = (
    1 << bit for bit in (0, 1, 2, 3, 6, 9)
)


@dataclass
class Header:
    """A Multiboot header: ``flags`` and, for flat images, the addresses."""

    flags: int
    offset: int
    header_addr: int = 0
    load_addr: int = 0
    load_end_addr: int = 0
    bss_end_addr: int = 0
    entry_addr: int = 0


def find_header(image: bytes, name: str) -> Header:
    """Raises ImageError if there is none, or if it requires what we do not offer."""
    for offset in range(0, min(len(image), SEARCH) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<III", image, offset)
        if magic == MAGIC and (magic + flags + checksum) & 0xFFFFFFFF == 0:
            break
    else:
        raise ImageError(f"{name}: not a Multiboot image (no header in its first {SEARCH} bytes)")
    unknown = flags & REQUIREMENTS & ~KNOWN_REQUIREMENTS
    if unknown:
        raise ImageError(
            f"{name}: its Multiboot header requires features {unknown:#x}, which are not offered"
        )
    if flags & ADDRESSES:
        if offset + 32 > len(image):
            raise ImageError(f"{name}: its Multiboot header is cut off")
        addresses = struct.unpack_from("<IIIII", image, offset + 12)
        return Header(flags, offset, *addresses)
    return Header(flags, offset)


def read_flat(name: str, image: bytes, header: Header) -> elf.Executable:
    """Take an image apart by the addresses in its header (section 3.1.3); 0 stands for the file's end."""
    start = header.offset - (header.header_addr - header.load_addr)
    filled = (header.load_end_addr or header.load_addr + len(image) - start) - header.load_addr
    size = (header.bss_end_addr or header.load_addr + filled) - header.load_addr
    if header.header_addr < header.load_addr or start < 0 or not 0 <= filled <= size:
        raise ImageError(f"{name}: the addresses in its Multiboot header make no sense")
    if start + filled > len(image):
        raise ImageError(f"{name}: the file is truncated: its Multiboot header says that it is longer")
    data = image[start : start + filled]
    return elf.Executable(header.entry_addr, [elf.Segment(header.load_addr, data, size)])


class Loader:
    """Puts an image, its modules and the boot information into guest RAM.

    ``regions`` are the pieces of RAM, as (first address, size).
    """

    def __init__(self, ram: memoryview, regions: list[tuple[int, int]]) -> None:
        self.ram = ram
        self.regions = regions
        self.top = 0
        """End of what was loaded so far."""

    def load(self, name: str, image: bytes, append: str, modules: list[tuple[str, bytes]]) -> Entry:
        """Load everything; returns the machine state that the specification promises (section 3.2).

        ``name`` and ``append`` make the kernel's command line; each module is its own command line, which
        begins with its name, and its bytes. Raises ImageError.
        """
        header = find_header(image, name)
        if header.flags & ADDRESSES:
            executable = read_flat(name, image, header)
        elif image.startswith(elf.MAGIC):
            executable = elf.read_executable(name, image)
        else:
            raise ImageError(f"{name}: neither an ELF file nor an image with load addresses in its header")
        for segment in executable.segments:
            if segment.address < INFO + INFO_SIZE and segment.address + segment.size > MEMORY_MAP:
                raise ImageError(
                    f"{name}: it wants memory at {MEMORY_MAP:#x}, where the boot information lies"
                )
            self.place(name, segment.address, segment.data, segment.size)
        words = [_text(name, f"{name} {append}" if append else name), LOADER_NAME + b"\0"]
        words += [_text("module", text) for text, _ in modules]
        self._describe(words, modules)
        return Entry(executable.entry, {EAX: BOOTED, EBX: INFO})

    def place(self, name: str, address: int, data: bytes, size: int) -> None:
        """``data`` and then zeros, ``size`` bytes in all, at a guest-physical address."""
        if not any(first <= address and address + size <= first + length for first, length in self.regions):
            raise ImageError(
                f"{name}: it wants {size} bytes at {address:#x}, where the machine's "
                f"{len(self.ram) >> 20} MiB of memory have no room"
            )
        self.ram[address : address + len(data)] = data
        self.ram[address + len(data) : address + size] = bytes(size - len(data))
        self.top = max(self.top, address + size)

    def _describe(self, words: list[bytes], modules: list[tuple[str, bytes]]) -> None:
        """Place the modules and write the boot information (section 3.3).

        ``words`` are the kernel's command line, the loader's name, and the modules' command lines.
        """
        table = _page_after(self.top)
        strings = []
        at = table + 16 * len(modules)
        for word in words:
            strings.append(at)
            at += len(word)
        line, loader, *module_lines = strings
        entries = b""
        first = _page_after(at)
        for (text, data), module_line in zip(modules, module_lines, strict=True):
            if data:
                self.place(f"module {text}", first, data, len(data))
            entries += struct.pack("<IIII", first, first + len(data), module_line, 0)
            first = _page_after(first + len(data))
        self.place("the command lines", table, entries + b"".join(words), at - table)

        regions = b"".join(struct.pack("<IQQI", 20, *region) for region in firmware_map(len(self.ram)))
        self.place("the memory map", MEMORY_MAP, regions, len(regions))
        flags = I_MEMORY | I_BOOT_DEVICE | I_COMMAND_LINE | I_MODULES | I_MEMORY_MAP | I_LOADER
        upper = max(len(self.ram) - HIGH, 0)
        info = bytearray(INFO_SIZE)
        struct.pack_into("<4I", info, 0, flags, EXTENDED_DATA >> 10, upper >> 10, FIRST_DISK)
        struct.pack_into("<3I", info, 16, line, len(modules), table)
        struct.pack_into("<2I", info, 44, len(regions), MEMORY_MAP)
        struct.pack_into("<I", info, 64, loader)
        self.place("the boot information", INFO, bytes(info), INFO_SIZE)


def firmware_map(memory: int) -> list[tuple[int, int, int]]:
    """(first address, size, type) of each range that the ISA PC's firmware knows of, as INT 15h E820 would."""
    ranges = [(0, EXTENDED_DATA, AVAILABLE), (EXTENDED_DATA, HOLE - EXTENDED_DATA, RESERVED)]
    ranges.append((0xF0000, 0x10000, RESERVED))
    if memory > HIGH:
        ranges.append((HIGH, memory - HIGH, AVAILABLE))
    ranges.append((0xFFFC0000, 0x40000, RESERVED))
    return ranges


def _page_after(address: int) -> int:
    return address + PAGE - 1 & -PAGE


def _text(name: str, text: str) -> bytes:
    """A C string. What the shell gave us that is no UTF-8 goes to the guest as it came."""
    if "\0" in text:
        raise ImageError(f"{name}: a command line cannot have a zero byte in it")
    return text.encode("utf-8", "surrogateescape") + b"\0"


def read_image(path: Path) -> bytes:
    """The bytes of an image file. Raises ImageError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
