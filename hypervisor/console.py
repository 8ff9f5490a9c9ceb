"""The other end of COM1's cable, and texts that somebody waits for in what comes out of it."""

from __future__ import annotations

from collections.abc import Callable


class Console:
    """``output`` is all that the guest has sent since this monitor has it."""

    def __init__(self, nudge: Callable[[], None]) -> None:
        """``nudge`` makes the monitor look, from any thread."""
        self._nudge = nudge
        self.output = bytearray()
        self._inbox: list[bytes] = []

    def send(self, data: bytes) -> None:
        """Type something; from any thread. It arrives at the instruction that the guest is just at."""
        self._inbox.append(bytes(data))
        self._nudge()

    def take(self) -> bytes:
        """What was typed since the last call."""
        taken = []
        while self._inbox:
            taken.append(self._inbox.pop(0))
        return b"".join(taken)


class Awaited:
    """A text that somebody waits for in the console's output, from a place on."""

    def __init__(self, text: bytes, start: int) -> None:
        self.text = text
        self._searched = start
        """No occurrence begins before this place."""

    def came(self, output: bytearray) -> bool:
        """Is it there? To be asked each time that the output has grown."""
        if output.find(self.text, self._searched) >= 0:
            return True
        self._searched = max(self._searched, len(output) - len(self.text) + 1)
        return False
