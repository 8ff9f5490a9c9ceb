"""Booting Linux by its 32-bit boot protocol (Documentation/x86/boot.rst in its source, "32-bit BOOT PROTOCOL").

A bzImage is real-mode setup code, which we skip, and the kernel proper, which decompresses itself. What the
setup code would have asked the firmware for goes into the *zero page* (``struct boot_params``): a copy of the
image's setup header, the E820 memory map, the screen. The kernel is entered at its first byte in protected
mode with flat segments, ESI at the zero page.

Where things lie is as QEMU's ``-kernel`` puts them (``hw/i386/x86.c``)::

    0x08000   a GDT with the protocol's two segments
    0x10000   the zero page
    0x20000   the command line
    0x100000  the kernel
    top       the initial RAM disk, as high as the kernel says that it may be
"""

from __future__ import annotations

import struct

from hypervisor.boot.entry import Entry
from hypervisor.boot.multiboot import firmware_map
from hypervisor.errors import ImageError
from hypervisor.hardware.x86 import ESI

SETUP = 0x1F1
"""Offset of the setup header, in the image and in the zero page."""
MAGIC = b"HdrS"
MAGIC_AT = 0x202
OLDEST = 0x20A
"""The first version of the protocol that tells how much memory the kernel needs (Linux 2.6.31)."""
SECTOR = 512

PAGE = 4096
GDT = 0x8000
ZERO_PAGE = 0x10000
COMMAND_LINE = 0x20000
KERNEL = 0x100000

BOOT_CS, BOOT_DS = 0x10, 0x18
FLAT_CODE, FLAT_DATA = 0x00CF9B000000FFFF, 0x00CF93000000FFFF
UNKNOWN_LOADER = 0xFF
LOADED_HIGH = 1

# Offsets in the zero page (Documentation/x86/zero-page.rst and boot.rst).
ALT_MEM_K = 0x1E0
E820_ENTRIES = 0x1E8
TYPE_OF_LOADER = 0x210
LOADFLAGS = 0x211
RAMDISK = 0x218
COMMAND_LINE_POINTER = 0x228
E820_TABLE = 0x2D0
TEXT_SCREEN = struct.pack("<BBHHBB6xBBH", 0, 0, 0, 0, 3, 80, 25, 1, 16)
"""``screen_info``: VGA text mode 3, 80 columns, 25 lines of 16 scan lines, the cursor in the corner."""


class SetupHeader:
    """What an image says of itself. Raises ImageError if it is cut off or too old."""

    def __init__(self, name: str, image: bytes) -> None:
        if len(image) < 0x268:
            raise ImageError(f"{name}: the kernel is cut off within its setup header")
        (self.version,) = struct.unpack_from("<H", image, 0x206)
        if self.version < OLDEST:
            raise ImageError(
                f"{name}: boot protocol {self.version >> 8}.{self.version & 0xFF:02}, "
                f"{OLDEST >> 8}.{OLDEST & 0xFF} or newer is needed"
            )
        if not image[LOADFLAGS] & LOADED_HIGH:
            raise ImageError(f"{name}: a zImage, which wants to be loaded low; a bzImage is needed")
        self.end = MAGIC_AT + image[0x201]
        self.kernel = ((image[SETUP] or 4) + 1) * SECTOR
        """Where in the image the kernel proper begins."""
        self.size = struct.unpack_from("<I", image, 0x1F4)[0] * 16
        """Bytes of the kernel proper."""
        if self.kernel + self.size > len(image):
            raise ImageError(f"{name}: the file is truncated: its setup header says that it is longer")
        (self.highest_ramdisk,) = struct.unpack_from("<I", image, 0x22C)
        (self.longest_command_line,) = struct.unpack_from("<I", image, 0x238)
        (self.address,) = struct.unpack_from("<Q", image, 0x258)
        """Where the kernel wants to run."""
        (self.needed,) = struct.unpack_from("<I", image, 0x260)
        """How much memory it needs there before it knows what there is."""


def is_kernel(image: bytes) -> bool:
    """Is this file a Linux kernel for x86, of whatever version?"""
    return image[MAGIC_AT : MAGIC_AT + 4] == MAGIC


def load(ram: memoryview, name: str, image: bytes, append: str, initrd: bytes) -> Entry:
    """Put a kernel into guest RAM, with its command line and initial RAM disk (may be empty). Raises ImageError."""
    header = SetupHeader(name, image)
    words = append.encode("utf-8", "surrogateescape")
    if len(words) > header.longest_command_line or 0 in words:
        raise ImageError(
            f"{name}: the command line must be at most {header.longest_command_line} bytes long, without zeros"
        )
    kernel_end = max(KERNEL + header.size, header.address + header.needed)
    ramdisk = (min(header.highest_ramdisk + 1, len(ram)) - len(initrd)) & -PAGE
    if (ramdisk if initrd else len(ram)) < kernel_end:
        raise ImageError(
            f"{name}: the kernel{' and its initial RAM disk need' if initrd else ' needs'} at least "
            f"{(kernel_end + len(initrd) + PAGE >> 20) + 1} MiB of memory, the machine has {len(ram) >> 20}"
        )

    zero_page = bytearray(PAGE)
    zero_page[: len(TEXT_SCREEN)] = TEXT_SCREEN
    zero_page[SETUP : header.end] = image[SETUP : header.end]
    zero_page[TYPE_OF_LOADER] = UNKNOWN_LOADER
    struct.pack_into("<I", zero_page, ALT_MEM_K, (len(ram) >> 10) - 1024)
    struct.pack_into("<I", zero_page, COMMAND_LINE_POINTER, COMMAND_LINE)
    if initrd:
        struct.pack_into("<II", zero_page, RAMDISK, ramdisk, len(initrd))
    ranges = firmware_map(len(ram))
    zero_page[E820_ENTRIES] = len(ranges)
    for number, (first, size, kind) in enumerate(ranges):
        struct.pack_into("<QQI", zero_page, E820_TABLE + 20 * number, first, size, kind)

    gdt = struct.pack("<4Q", 0, 0, FLAT_CODE, FLAT_DATA)
    kernel = image[header.kernel : header.kernel + header.size]
    for address, data in (
        (GDT, gdt),
        (ZERO_PAGE, zero_page),
        (COMMAND_LINE, words + b"\0"),
        (KERNEL, kernel),
        (ramdisk, initrd),
    ):
        ram[address : address + len(data)] = data
    return Entry(KERNEL, {ESI: ZERO_PAGE}, BOOT_CS, BOOT_DS, (GDT, len(gdt) - 1))
