"""Bits of page-table entries, the guest's and the shadow's (Intel SDM 3A, tables 4-5, 4-6 and 4-11)."""

PRESENT = 0x001
WRITABLE = 0x002
USER = 0x004
ACCESSED = 0x020
DIRTY = 0x040
LARGE = 0x080
"""In a page-directory entry: it maps a page itself."""

NX = 1 << 63
"""PAE only: no instruction may be fetched."""
ADDRESS = 0x000FFFFFFFFFF000
"""PAE only: the frame."""

LINK = PRESENT | WRITABLE | USER
"""Rights in the upper levels of the shadow: everything; the last level decides."""
