"""Processes that kill themselves at a chosen step of a migration."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

from hypervisor.migration.channel import Channel

EVERY_STEP = ("send", "receive", "write", "readinto")
EVERY_MESSAGE = ("send", "receive", "write")


class Killer:
    """Kills its own process at the n-th step of a channel, before or after it."""

    def __init__(self, step: int, when: str, steps: tuple[str, ...] = EVERY_STEP) -> None:
        self._left = step
        self._when = when
        self._inside = False
        for name in steps:
            setattr(Channel, name, self._wrap(getattr(Channel, name)))

    def _wrap(self, method: Callable) -> Callable:
        def step(*args, **kwargs):
            if self._inside:  # `send` is made of `write`
                return method(*args, **kwargs)
            self._left -= 1
            if self._left == 0 and self._when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            self._inside = True
            try:
                return method(*args, **kwargs)
            finally:
                self._inside = False
                if self._left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        return step


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def killed(child: int) -> bool:
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def kill_points() -> Iterator[tuple[int, str]]:
    step = 0
    while True:
        step += 1
        yield step, "before"
        yield step, "after"
