"""Marks: a byte for each page of RAM, not 0 if the page is meant."""

from __future__ import annotations

from hypervisor.ext.marks import both, either, how_many, without

__all__ = ["Marks", "both", "either", "from_bitmap", "how_many", "to_bitmap", "without"]

Marks = bytes | bytearray | memoryview

_TO_DIGITS = b"0" + b"1" * 255
_FROM_DIGITS = bytes(range(256)).replace(b"01", b"\0\1")


def to_bitmap(marks: Marks) -> bytes:
    """The same as bits: page ``n`` is bit ``n % 8`` of byte ``n // 8``."""
    digits = bytes(marks).translate(_TO_DIGITS)[::-1]
    return int(digits or b"0", 2).to_bytes((len(marks) + 7) // 8, "little")


def from_bitmap(bitmap: bytes, pages: int) -> bytearray:
    """Marks of 0 and 1 for so many pages.

    Raises:
        ValueError: it is a bitmap of another number of pages.
    """
    value = int.from_bytes(bitmap, "little")
    if len(bitmap) != (pages + 7) // 8 or value >> pages:
        raise ValueError(f"{len(bitmap)} bytes are no bitmap of {pages} pages")
    return bytearray(f"{value:0{pages}b}"[::-1].encode().translate(_FROM_DIGITS))
