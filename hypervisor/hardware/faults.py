"""The guest's own exceptions, on their way to the guest.

Whoever emulates something for the guest raises ``GuestFault`` where a processor would fault; the monitor
delivers it through the guest's IDT. It never means that something is wrong with the monitor.
"""

from __future__ import annotations

DIVIDE_ERROR = 0
DEBUG = 1
BREAKPOINT = 3
OVERFLOW = 4
INVALID_OPCODE = 6
DEVICE_NOT_AVAILABLE = 7
DOUBLE_FAULT = 8
INVALID_TSS = 10
SEGMENT_NOT_PRESENT = 11
STACK_FAULT = 12
GENERAL_PROTECTION = 13
PAGE_FAULT = 14

WITH_ERROR_CODE = frozenset((8, 10, 11, 12, 13, 14, 17))
"""Vectors that push an error code (Intel SDM 3A, table 6-1)."""

CONTRIBUTORY = frozenset((0, 10, 11, 12, 13))
"""Vectors that make a double fault of one another (Intel SDM 3A, table 6-4)."""


class GuestFault(Exception):
    """An exception of the guest: ``vector``, ``error`` code (0 where it has none) and, for #PF, the
    linear address for CR2.
    """

    def __init__(self, vector: int, error: int = 0, address: int = 0) -> None:
        super().__init__(vector, error, address)
        self.vector = vector
        self.error = error
        self.address = address


class TripleFault(Exception):
    """The double fault could not be delivered either: the processor shuts down (SDM 3A, 6.15)."""


class GuestStopped(Exception):
    """This guest cannot go on, because …: it wants something that the monitor does not offer.

    The one way in which monitor code ends a run; never the process.
    """
