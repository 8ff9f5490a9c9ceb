"""The destination's half of post-copy: brings the pages that the guest is missing, while it runs.

A thread of its own takes in what the source pushes, and tells it which pages the guest waits for. When the
link breaks it waits for the source to connect again (the listener hands it the connection), tells which
pages are missing, and goes on. The guest runs meanwhile for as long as it needs none of them.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections import deque

from hypervisor.errors import HypervisorError, MigrationError, StateError
from hypervisor.marks import Marks
from hypervisor.migration.channel import Channel, LinkError, Timeouts
from hypervisor.migration.lifeline import Lifeline
from hypervisor.migration.protocol import Complete, Hello, Machine, Settle, Standing, Want
from hypervisor.migration.recorder import Recorder
from hypervisor.state.codec import PAGE_SIZE
from hypervisor.state.residue import PageReader, write_missing

log = logging.getLogger("hypervisor.migration")


class Pager:
    """Brings one guest's absent pages. It is the frame source of its machine (see paging/absent.py)."""

    def __init__(
        self,
        vm: Machine,
        hello: Hello,
        stale: Marks,
        timeouts: Timeouts,
        recorder: Recorder,
        lifeline: Lifeline | None = None,
    ) -> None:
        """``stale`` marks absent pages of which RAM holds something that is out of date; the others are zero.

        With a ``lifeline``, a source that does not come back within ``timeouts.settle`` seconds (if it never was
        here, ``timeouts.message``) is given up.
        """
        self._vm = vm
        self._hello = hello
        self._stale = bytes(stale)
        self._timeouts = timeouts
        self._recorder = recorder
        self._lifeline = lifeline
        self._changed = threading.Condition()
        self._next: tuple[Channel, bool] | None = None
        """A connection that waits to be served, and whether it goes on with what an earlier one began."""
        self._current: Channel | None = None
        self._connected = False
        self._retired = False
        self._ended = False
        self._wanted: deque[int] = deque()
        """Pages that the source must be told of."""
        self._told: set[int] = set()
        """Pages that it was told of."""
        self._received = 0
        """Bytes on earlier connections."""
        self._waker: socket.socket | None = None
        self._wakened: socket.socket | None = None

    @property
    def active(self) -> bool:
        """May a connection still be of use?"""
        return not self._ended

    def start(self) -> None:
        """The guest is ours: bring its pages."""
        self._waker, self._wakened = socket.socketpair()
        self._waker.setblocking(False)
        self._wakened.setblocking(False)
        threading.Thread(target=self._run, name="pager", daemon=True).start()

    def answers(self, question: Settle) -> bool:
        """Is it the source of this guest that asks, and are pages missing?"""
        hello = self._hello
        return not self._ended and (hello.transfer, hello.identity, hello.epoch) == (
            question.transfer,
            question.identity,
            question.epoch,
        )

    def connect(self, channel: Channel, *, resumed: bool) -> bool:
        """Pages come over this connection, which is the pager's from now on; False if none are missing any more.

        ``resumed``: the source wants to know first which.
        """
        with self._changed:
            if self._ended:
                return False
            if self._next is not None:
                self._next[0].close()
            self._next = (channel, resumed)
            if self._current is not None:
                self._current.interrupt()  # the source has given that one up
            self._changed.notify_all()
        return True

    def retire(self) -> None:
        """No connection will come any more: when the one that there may be breaks, the missing pages are lost."""
        with self._changed:
            self._retired = True
            self._changed.notify_all()

    def want(self, frame: int) -> None:
        """The guest waits for this page; on its thread."""
        self._wanted.append(frame)
        if self._waker is not None:
            with contextlib.suppress(OSError):  # it was woken often enough, or has ended
                self._waker.send(b"\0")

    def finished(self) -> None:
        """The last page is here."""
        if self._lifeline is not None:
            self._lifeline.end()

    # ---------------------------------------------------------------------------- on its own thread

    def _run(self) -> None:
        failure: HypervisorError | None = None
        while (connection := self._connection()) is not None:
            channel, resumed = connection
            try:
                with channel:
                    self._serve(channel, resumed=resumed)
            except (MigrationError, StateError) as error:
                failure = error
                self._pause(error)
        self._end(failure)

    def _end(self, failure: HypervisorError | None) -> None:
        """No more pages come."""
        if not self._vm.absent.count:
            self._recorder.finish("completed", self._recorder.report.ram.transferred)
        elif self._lifeline is None:
            self._recorder.finish("failed", self._recorder.report.ram.transferred, failure)
        self._vm.absent.lose(MigrationError(f"the source of the guest is gone ({failure})"))
        self._vm.nudge()  # if it can be rescued, now is the time
        for end in (self._waker, self._wakened):
            if end is not None:
                end.close()

    def _connection(self) -> tuple[Channel, bool] | None:
        """The next connection; None if nothing is missing any more, or nobody brings it."""
        with self._changed:
            self._current = None
            patience = None
            if self._lifeline is not None:
                patience = self._timeouts.settle if self._connected else self._timeouts.message
            self._changed.wait_for(lambda: self._next or self._retired or not self._vm.absent.count, patience)
            if self._next is not None and self._vm.absent.count:
                found, self._next = self._next, None
                self._current = found[0]
                self._connected = True
                return found
            self._ended = True
            if self._next is not None:
                self._next[0].close()
            return None

    def _pause(self, error: HypervisorError) -> None:
        missing = self._vm.absent.count
        if missing:
            self._recorder.paused()
            log.warning(
                "guest %s: %s; %d of its pages are missing, and it waits when it needs one",
                self._hello.identity[:8],
                error,
                missing,
            )

    def _serve(self, channel: Channel, *, resumed: bool) -> None:
        """Take in pages until none is missing."""
        absent = self._vm.absent
        if resumed:
            channel.send(Standing("incomplete"))
            missing = absent.map()
            write_missing(channel.write, missing)
            self._wanted.extend(page for page in self._told if missing[page])
        self._recorder.owing(absent.count, self._received + channel.received)
        try:
            pages = PageReader(channel.readinto, len(self._stale))
            while self._take_in(channel, pages):
                pass
        finally:
            self._received += channel.received
        channel.send(Complete(self._hello.transfer))

    def _take_in(self, channel: Channel, pages: PageReader) -> bool:
        """What comes next: pages from the source, or a wish of the guest. False after the last page."""
        here = channel.ready(self._timeouts.message, self._wakened)
        if not self._tell(channel) and not here:
            raise LinkError("the peer was silent for too long")
        if not here:
            return True
        pieces = pages.pieces()
        absent = self._vm.absent
        if pieces is None:
            if absent.count:
                raise StateError(
                    f"the source has sent all that it owes, and {absent.count} pages are missing"
                )
            return False
        for first, count, data in pieces:
            self._admit(first, count, data)
        self._recorder.admitted(absent.count, self._received + channel.received, absent.waited)
        return True

    def _admit(self, first: int, count: int, data: Marks | None) -> None:
        if data is None and self._stale.find(1, first, first + count) >= 0:
            data = bytes(count * PAGE_SIZE)
        absent = self._vm.absent
        if absent.admit(first, count, data) != count and absent.count:
            raise StateError(f"of the pages {first} to {first + count - 1}, some were not missing")

    def _tell(self, channel: Channel) -> bool:
        """Tell the source for which pages the guest waits; False if nobody has asked for any."""
        woken = False
        if self._wakened is not None:
            with contextlib.suppress(BlockingIOError):
                woken = bool(self._wakened.recv(1 << 12))
        while self._wanted:
            page = self._wanted.popleft()
            self._told.add(page)
            channel.send(Want(page))
            self._recorder.requested()
        return woken
