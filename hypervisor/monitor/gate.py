"""Where other threads get at a machine whose guest runs.

A running guest is busy in the CPU, where nobody may touch it. Others therefore ask, and are let in the
next time that its thread is between two entries, or at once if the guest stands still:

* a *visit* does something short, on the guest's own thread, which then goes on: the guest is late by
  just what the visit takes;
* a *hold* makes the guest stand still until it is released, wherever that finds it: inside of a run, which
  waits, or between two runs, of which the next one waits.

Neither is anything that the guest could notice: under the exact clock it is at an instruction count, and
stays there.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from hypervisor.errors import UsageError

T = TypeVar("T")

_REPEAT = 0.05
"""Seconds after which a guest that has not come yet is asked again."""


class Gate:
    """``nudge`` makes a guest that runs look at ``wanted``, from any thread."""

    def __init__(self, nudge: Callable[[], None]) -> None:
        self._nudge = nudge
        self._changed = threading.Condition()
        self._visits: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._holds = 0
        self._busy = False
        self.running = False
        """Is a thread inside of a run? It may stand at the gate there."""

    @property
    def wanted(self) -> bool:
        """Does somebody wait for the guest? Then its thread calls ``stand``."""
        return self._holds > 0 or len(self._visits) > 0

    @property
    def open(self) -> bool:
        """Does the guest stand still, so that its machine may be looked at?"""
        return not self._busy

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """Around a run. Waits while somebody holds the guest.

        Raises:
            UsageError: another thread runs the machine.
        """
        with self._changed:
            if self.running:
                raise UsageError("the machine is running already")
            self.running = True
        try:
            with self._changed:
                self._wait_for_release()
                self._busy = True
            yield
        finally:
            with self._changed:
                self.running = self._busy = False
                self._changed.notify_all()

    def stand(self) -> None:
        """Let in who waits; for the guest's thread, between two entries. Returns when nobody holds it."""
        with self._changed:
            self._busy = False
            while self._visits:
                work, answer = self._visits.popleft()
                try:
                    answer.set_result(work())
                except BaseException as error:  # noqa: BLE001 - it is the visitor's, not the guest's
                    answer.set_exception(error)
            self._wait_for_release()
            self._busy = True

    def _wait_for_release(self) -> None:
        self._changed.notify_all()
        while self._holds:
            self._changed.wait()

    def visit(self, work: Callable[[], T]) -> T:
        """Do ``work`` while the guest stands still; returns, or raises, what it does.

        For any thread but the guest's own. Work that takes long holds up the guest.
        """
        answer: Future[T] = Future()
        visit = (work, answer)
        with self._changed:
            if not self._busy:
                return work()
            self._visits.append(visit)
            try:
                self._ask(answer.done)
            finally:
                if not answer.done():
                    self._visits.remove(visit)
            return answer.result() if answer.done() else work()

    def hold(self) -> None:
        """Make the guest stand still until ``release``. Holds count: each needs a release of its own."""
        with self._changed:
            self._holds += 1
            try:
                self._ask(lambda: False)
            except BaseException:  # Ctrl-C
                self.release()
                raise

    def release(self) -> None:
        """Let the guest go on, if nobody else holds it."""
        with self._changed:
            self._holds -= 1
            self._changed.notify_all()

    def _ask(self, answered: Callable[[], bool]) -> None:
        """Wait until the guest stands still, or has let us in meanwhile."""
        while self._busy and not answered():
            self._nudge()
            self._changed.wait(_REPEAT)
