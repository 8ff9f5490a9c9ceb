"""Types of ext/marks.pyx, and what each function does. Marks are a byte for each page, not 0 if it is meant.

Raises ValueError where two arguments are for different numbers of pages.
"""

from _typeshed import ReadableBuffer

def either(one: ReadableBuffer, other: ReadableBuffer) -> bytearray:
    """Marks of the pages that have one in ``one`` or in ``other``."""

def both(one: ReadableBuffer, other: ReadableBuffer) -> bytearray:
    """Marks, 1 each, of the pages that have one in ``one`` and in ``other``."""

def without(one: ReadableBuffer, other: ReadableBuffer) -> bytearray:
    """Marks, 1 each, of the pages that have one in ``one``, but none in ``other``."""

def how_many(marks: ReadableBuffer) -> int:
    """The number of pages that are marked."""
