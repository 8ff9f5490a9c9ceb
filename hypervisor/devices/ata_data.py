"""What an ATA drive says about itself: IDENTIFY DEVICE and SMART, as QEMU's hard disk says it.

Source: ATA/ATAPI-6 (T13/1410D), 8.15 and 8.41; the values are those of QEMU 7.2 (hw/ide/core.c).
"""

from __future__ import annotations

import struct

from hypervisor.devices.image import SECTOR

MODEL = "QEMU HARDDISK"
FIRMWARE = "2.5+"
MULTIPLE_MAX = 16
"""Sectors that READ MULTIPLE moves in one block, at most."""

SINGLE_DMA, MULTI_DMA, WRITE_CACHE, ULTRA_DMA = 62, 63, 85, 88
"""Words of IDENTIFY that SET FEATURES changes."""
CACHE_ON, CACHE_OFF = 0x4021, 0x4001

_ATTRIBUTES = (
    # Number, flags (2 bytes), value, worst, raw (6 bytes); threshold.
    (bytes.fromhex("010300 6464 000000000000".replace(" ", "")), 0x06),  # read errors
    (bytes.fromhex("030300 6464 100000000000".replace(" ", "")), 0x00),  # spin-up time
    (bytes.fromhex("040200 6464 640000000000".replace(" ", "")), 0x14),  # starts and stops
    (bytes.fromhex("050300 6464 000000000000".replace(" ", "")), 0x24),  # remapped sectors
    (bytes.fromhex("090300 6464 010000000000".replace(" ", "")), 0x00),  # power-on hours
    (bytes.fromhex("0c0300 6464 000000000000".replace(" ", "")), 0x00),  # power cycles
    (bytes.fromhex("be0300 4545 1f001f1f0000".replace(" ", "")), 0x32),  # temperature
)
_ATTRIBUTE_SIZE = 12
SELF_TESTS_MAX = 21
SELF_TEST_SIZE = 24


def _text(text: str, size: int) -> bytes:
    """ATA swaps the two characters of every word."""
    padded = text.ljust(size).encode()
    return bytes(padded[place ^ 1] for place in range(size))


def identify(
    sectors: int, cylinders: int, heads: int, track: int, multiple: int, serial: str, *, cache: bool
) -> bytes:
    """The 512 bytes of IDENTIFY DEVICE for a disk of that size and shape."""
    words = [0] * 256
    words[0] = 0x0040
    words[1], words[3], words[6] = cylinders, heads, track
    words[4], words[5] = SECTOR * track & 0xFFFF, SECTOR
    words[20], words[21], words[22] = 3, 512, 4
    words[47] = 0x8000 | MULTIPLE_MAX
    words[48] = 1
    words[49] = 0x0B00  # LBA, DMA, IORDY
    words[51] = words[52] = 0x200
    words[53] = 7
    words[54], words[55], words[56] = cylinders, heads, track
    capacity = cylinders * heads * track
    words[57], words[58] = capacity & 0xFFFF, capacity >> 16 & 0xFFFF
    words[59] = 0x100 | multiple if multiple else 0
    short = min(sectors, (1 << 28) - 1)
    words[60], words[61] = short & 0xFFFF, short >> 16
    words[SINGLE_DMA] = words[MULTI_DMA] = 7
    words[64] = 3
    words[65] = words[66] = words[67] = words[68] = 120
    words[69] = 0x4000
    words[80], words[81] = 0xF0, 0x16  # ATA-4 to ATA-7
    words[82], words[83], words[84] = 0x4021, 0x7400, 0x4000
    words[WRITE_CACHE] = CACHE_ON if cache else CACHE_OFF
    words[86], words[87] = 0x3400, 0x4000
    words[ULTRA_DMA] = 0x203F
    words[93] = 0x6001
    for place in range(4):
        words[100 + place] = sectors >> 16 * place & 0xFFFF
    words[106] = 0x6000
    words[169] = 1
    data = bytearray(struct.pack("<256H", *words))
    data[20:40] = _text(serial, 20)
    data[46:54] = _text(FIRMWARE, 8)
    data[54:94] = _text(MODEL, 40)
    return bytes(data)


def _with_checksum(data: bytearray) -> bytes:
    data[511] = -sum(data[:511]) & 0xFF
    return bytes(data)


def smart_thresholds() -> bytes:
    data = bytearray(SECTOR)
    data[0] = 1
    for number, (attribute, threshold) in enumerate(_ATTRIBUTES):
        place = 2 + number * _ATTRIBUTE_SIZE
        data[place], data[place + 1] = attribute[0], threshold
    return _with_checksum(data)


def smart_values(*, autosave: bool) -> bytes:
    data = bytearray(SECTOR)
    data[0] = 1
    for number, (attribute, _) in enumerate(_ATTRIBUTES):
        place = 2 + number * _ATTRIBUTE_SIZE
        data[place : place + len(attribute)] = attribute
    data[362] = 0x82 if autosave else 0x02
    data[364], data[365] = 0x20, 0x01
    data[367], data[368], data[370] = 0x19, 0x03, 0x01
    data[372], data[373], data[374] = 0x02, 0x36, 0x01
    return _with_checksum(data)


def smart_error_log() -> bytes:
    data = bytearray(SECTOR)
    data[0] = 1
    return _with_checksum(data)


def smart_self_test_log(count: int, log: bytes) -> bytes:
    data = bytearray(SECTOR)
    data[0] = 1
    if count:
        data[508] = count
        data[2:506] = log[2:506]
    return _with_checksum(data)
