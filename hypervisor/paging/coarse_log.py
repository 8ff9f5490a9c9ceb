"""A dirty log that needs no help from the CPU: a guest that ran may have written to every page."""

from __future__ import annotations

from collections.abc import Callable

PAGE = 4096


class CoarseLog:
    """``moment`` is any number that changes when the guest runs."""

    def __init__(self, size: int, moment: Callable[[], int]) -> None:
        self._pages = size // PAGE
        self._moment = moment
        self._since = 0
        self.active = False

    def start(self) -> None:
        """From now on. While the guest is not inside of the CPU."""
        self.active = True
        self._since = self._moment()

    def harvest(self) -> bytearray:
        """A byte for each page: was it written to since ``start`` or the last harvest?"""
        before, self._since = self._since, self._moment()
        return bytearray(self._pages) if before == self._since else bytearray(b"\1" * self._pages)

    def stop(self) -> None:
        """No more."""
        self.active = False
