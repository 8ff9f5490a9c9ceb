"""Every error that a user can cause, as one clear line.

The command line and the prompt print ``str(error)`` and exit with ``status``; a traceback is
therefore always a defect of ours, never the answer to bad input.
"""

from __future__ import annotations


def printable(text: str) -> str:
    r"""``text`` without line breaks and control characters, which somebody else may have put in: they are escaped.

    >>> printable("no field `a\n\x1b[2J`")
    'no field `a\\n\\x1b[2J`'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class HypervisorError(Exception):
    """Base of all errors meant for people. The message says what is wrong and where."""

    status = 1
    """Exit status of a command that ends with this error."""


class UsageError(HypervisorError):
    """The command or its arguments make no sense."""

    status = 2


class ImageError(HypervisorError):
    """A guest image or module cannot be loaded."""


class StateError(HypervisorError):
    """A saved state or stream is truncated, altered, of another version, or does not fit."""


class MigrationError(HypervisorError):
    """A migration failed; the message says on which side the guest is now."""


class HostError(HypervisorError):
    """The host cannot give what is needed: memory, a port, a library of the right version."""


class AddressError(HypervisorError):
    """An address named by a user is not mapped or not in guest RAM."""


class FramesLostError(HypervisorError):
    """A part of a guest's RAM that was still to come will not: the machine cannot go on as it is."""
