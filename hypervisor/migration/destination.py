"""Receiving a guest from another monitor. Read ``protocol`` first."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable
from typing import Self, TypeVar

from hypervisor.errors import HostError, HypervisorError, MigrationError
from hypervisor.marks import how_many
from hypervisor.migration.address import Address
from hypervisor.migration.channel import PATIENCE, Acceptor, Channel, LinkError, Timeouts
from hypervisor.migration.credentials import NO_CREDENTIALS, Credentials
from hypervisor.migration.lifeline import Lifeline
from hypervisor.migration.pager import Pager
from hypervisor.migration.protocol import (
    PROTOCOL_VERSION,
    Arrival,
    Commit,
    Configure,
    Hello,
    Machine,
    Prepared,
    Ready,
    Refused,
    RoundReceived,
    Settle,
    Standing,
    Welcome,
    refusal,
)
from hypervisor.migration.recorder import Recorder
from hypervisor.migration.report import Phase, Report
from hypervisor.state.live import LiveReader
from hypervisor.state.model import MachineConfig
from hypervisor.state.parts import Configuration
from hypervisor.state.stream import Progress

OUTCOMES_KEPT = 1024
FIRST_MESSAGE = 5.0
"""Seconds that a new connection has for its first message, at most: others wait meanwhile."""

M = TypeVar("M", bound=Machine)


class Listener:
    """A place where guests can arrive, and where a source can ask later what became of one.

    Keep it open while the guest runs: a source that lost the Ack stays stopped until it hears from
    here (a thread answers between calls of ``receive``).
    """

    def __init__(
        self,
        address: str | Address,
        *,
        timeouts: Timeouts = PATIENCE,
        credentials: Credentials = NO_CREDENTIALS,
    ) -> None:
        """Listen at ``address``; port 0 takes any free one, see ``address``.

        Raises:
            UsageError: the address is open to others, and ``credentials`` do not say whom to trust.
            HostError: the port is in use, the host is not ours, a certificate cannot be read.
        """
        self._timeouts = timeouts
        self._acceptor = Acceptor(address, timeouts, credentials)
        self._lock = threading.Lock()  # over the state of the pending arrival
        self._pending: Arrival | None = None
        self._outcomes: dict[str, Standing] = {}
        self._epochs: dict[str, int] = {}
        self._pagers: list[Pager] = []
        """Of guests that run here, and are missing pages."""
        self._untidy = False
        """Was a machine thrown away whose memory may still be held?"""
        self._receiving = threading.Lock()
        self._current: Channel | None = None
        self._closed = False
        self.waiting = False
        """Is a ``receive`` under way? A source that comes between two of them is refused."""
        self._answering: threading.Thread | None = None

    @property
    def address(self) -> Address:
        """Where it listens, with the real port."""
        return self._acceptor.address

    @property
    def unsettled(self) -> bool:
        """Is there a prepared guest whose source has neither committed nor withdrawn it?"""
        pending = self._pending
        return pending is not None and pending.state is Arrival.State.PREPARED

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def receive(
        self,
        make_vm: Callable[[MachineConfig], M],
        *,
        progress: Progress | None = None,
        timeout: float | None = None,
        report: Report | None = None,
    ) -> M:
        """Wait for a guest and return it, stopped and owned by this monitor: run it at once.

        In post-copy some of its pages are absent then, and come while it runs; ``report`` is filled in until all
        are here. Keep the listener open until then: a source whose link broke connects here again.
        ``make_vm`` makes the empty machine that it is restored into, or raises a
        :class:`HypervisorError` that the source's user will read. If the link breaks in the handover,
        this goes on waiting, for the source to connect again, or for ``force`` or ``discard`` in another thread.

        Raises:
            MigrationError: no guest came within ``timeout`` seconds, or one came and failed; the guest is
                with its source then. If one is still ``unsettled``, call again to go on waiting for it.
        """
        with self._receiving:
            self._stop_answering()
            self.waiting = True
            recorder = Recorder(Report() if report is None else report, progress)
            deadline = None if timeout is None else time.monotonic() + timeout
            try:
                while True:
                    arrived = self._arrived()
                    if arrived is not None:
                        if arrived.pager is None:
                            recorder.finish("completed", recorder.report.ram.transferred)
                        return arrived.vm  # type: ignore[return-value]  # make_vm made it
                    self._serve_next(deadline, make_vm, recorder)
            except BaseException as error:
                recorder.finish("unsettled" if self.unsettled else "failed", 0, error)
                raise
            finally:
                self.waiting = False
                self._start_answering()

    def force(self) -> None:
        """Own the unsettled guest: for an operator who knows that the source does not run it.

        ``receive`` returns it, the one that waits in another thread or the next.

        Raises:
            MigrationError: there is none, or it is missing pages that only its source has.
        """
        with self._lock:
            arrival = self._prepared()
            arrival.force()
            self._note()
            if arrival.pager is not None:
                arrival.pager.retire()
        self._acceptor.wake()

    def discard(self) -> None:
        """Give the unsettled guest up: the source gets it back when it asks. ``receive`` waits for others."""
        with self._lock:
            self._prepared().abandon()
            self._note()
        self._acceptor.wake()

    def close(self) -> None:
        """Stop listening, also in a ``receive`` of another thread. An unsettled guest is given up."""
        if self._closed:
            return
        self._closed = True
        self._acceptor.wake()
        current = self._current
        if current is not None:
            current.interrupt()
        with self._receiving:
            self._stop_answering()
            with self._lock:
                if self.unsettled:
                    self._prepared().abandon()
                    self._note()
            self._acceptor.close()
            for pager in self._pagers:
                pager.retire()

    # ------------------------------------------------------------------------- one connection

    def _serve_next(
        self,
        deadline: float | None,
        make_vm: Callable[[MachineConfig], Machine],
        recorder: Recorder,
    ) -> None:
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        channel = self._acceptor.accept(left)
        if self._closed:
            if channel is not None:
                channel.close()
            raise MigrationError("the listener was closed")
        if channel is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise MigrationError(
                    "the source did not come back to settle the handover"
                    if self.unsettled
                    else f"no guest came to {self.address} in time"
                )
            return
        with contextlib.ExitStack() as held:
            held.enter_context(channel)
            self._current = channel
            try:
                first = self._first_message(channel)
                if isinstance(first, Settle):
                    taken = self._settle(channel, first)
                else:
                    taken = isinstance(first, Hello) and self._welcome(channel, first, make_vm, recorder)
                if taken:
                    held.pop_all()
            finally:
                self._current = None

    def _welcome(
        self,
        channel: Channel,
        hello: Hello,
        make_vm: Callable[[MachineConfig], Machine],
        recorder: Recorder,
    ) -> bool:
        """A guest wants to come: everything up to Prepared, and then the wait for Commit.

        Returns whether its pager has taken the channel.
        """
        recorder.begin()
        if self._untidy:
            # A machine is a knot of references, which only the collector unties; one peer after the other that
            # fails must not fill our memory with what they left.
            gc.collect()
        self._untidy = True
        try:
            self._admit(hello)
        except MigrationError as error:
            channel.refuse(refusal(error))
            return False  # nothing came of it here; others may still come
        try:
            arrival, digest = self._prepare(channel, hello, make_vm, recorder)
        except LinkError as error:
            raise MigrationError(f"{_incoming(hello, recorder)}: {error}; it stays with its source") from None
        except HypervisorError as error:
            channel.refuse(refusal(error))
            raise MigrationError(f"{_incoming(hello, recorder)}: {error}; it stays with its source") from None
        except BaseException:
            channel.refuse(Refused("the destination failed by a defect of its own"))
            raise
        recorder.enter(Phase.PREPARED)
        with self._lock:
            self._pending = arrival
        try:
            channel.send(Prepared(hello.transfer, digest))
        except LinkError:
            return False  # it may have arrived all the same
        return self._await_commit(channel)

    def _admit(self, hello: Hello) -> None:
        if hello.version != PROTOCOL_VERSION:
            raise MigrationError(
                f"the source speaks version {hello.version} of the migration protocol, "
                f"this hypervisor version {PROTOCOL_VERSION}"
            )
        newest = self._epochs.get(hello.identity, 0)
        if hello.epoch < newest:
            raise MigrationError(
                f"epoch {hello.epoch} of this guest is outdated, epoch {newest} was here already"
            )
        with self._lock:
            pending = self._pending
            if pending is None:
                return
            if pending.identity != hello.identity or hello.epoch < pending.epoch:
                raise MigrationError("this monitor holds another guest whose handover is not settled")
            # Only its owner can send a guest, so the copy of an earlier attempt is of no use any more.
            pending.abandon()
            self._note()

    def _prepare(
        self,
        channel: Channel,
        hello: Hello,
        make_vm: Callable[[MachineConfig], Machine],
        recorder: Recorder,
    ) -> tuple[Arrival, bytes]:
        channel.send(Welcome(PROTOCOL_VERSION))
        recorder.enter(Phase.CONFIGURATION)
        config = channel.receive(Configure).config
        vm = make_vm(config)
        try:
            return self._fill(channel, hello, config, vm, recorder)
        except BaseException:
            vm.close()
            raise

    def _fill(
        self,
        channel: Channel,
        hello: Hello,
        config: MachineConfig,
        vm: Machine,
        recorder: Recorder,
    ) -> tuple[Arrival, bytes]:
        """Make ``vm`` the guest that comes; returns the digest of the stream, too."""
        vm.owned = False
        if len(vm.ram) != config.memory:
            raise MigrationError(f"the machine made here has {len(vm.ram)} bytes of RAM, not {config.memory}")
        channel.send(Ready())
        recorder.enter(Phase.MEMORY)

        def copied(done: int, total: int) -> None:
            recorder.copied(done, total, channel.received)

        reader = LiveReader(channel.readinto)
        if reader.head != Configuration(config, hello.identity, hello.epoch):
            raise MigrationError("the state that came is not that of the guest that was announced")
        state, received = reader.receive(
            vm.ram,
            file=vm.ram_file,
            progress=copied,
            on_round=lambda number: channel.send(RoundReceived(number)),
        )
        recorder.received(received, reader.rounds)
        vm.restore(state)
        pager = None
        if how_many(received.absent):
            lifeline = None
            if received.checkpoint is not None:
                lifeline = Lifeline(vm, received.checkpoint, state, recorder)
            pager = Pager(vm, hello, received.stale, self._timeouts, recorder, lifeline)
            vm.absent.begin(received.absent, pager)
        return Arrival(vm, hello, pager), received.digest

    def _await_commit(self, channel: Channel) -> bool:
        """Prepared was said. Whatever breaks now leaves the copy prepared.

        Returns whether the guest's pager has taken the channel.
        """
        with contextlib.suppress(MigrationError):
            message = channel.receive(Commit)
            with self._lock:
                arrival = self._prepared()
                ack = arrival.commit(message)
                self._note()
            # If this one is lost, the source asks later, and `_outcomes` knows.
            channel.send(ack)
            return arrival.pager is not None and arrival.pager.connect(channel, resumed=False)
        return False

    def _first_message(self, channel: Channel) -> Hello | Settle | None:
        """What a new connection wants; None if it is nothing that concerns us (a port scanner, say)."""
        patience = min(FIRST_MESSAGE, self._timeouts.message)
        try:
            channel.secure(patience)
            return channel.receive(Hello, Settle, timeout=patience)
        except MigrationError:
            return None

    def _settle(self, channel: Channel, question: Settle) -> bool:
        """The source of an earlier transfer asks what became of it.

        Returns whether the guest's pager has taken the channel.
        """
        for pager in self._pagers:
            if pager.answers(question) and pager.connect(channel, resumed=True):
                return True
        with self._lock:
            pending = self._pending
            mine = (
                pending is not None
                and pending.state is Arrival.State.PREPARED
                and (
                    (pending.transfer, pending.identity, pending.epoch)
                    == (question.transfer, question.identity, question.epoch)
                )
            )
            if mine and question.withdraw:
                self._prepared().abandon()
                self._note()
            answer = Standing("prepared") if mine and not question.withdraw else self._outcome(question)
        with contextlib.suppress(LinkError):
            channel.send(answer)
            if answer.outcome == "prepared":
                return self._await_commit(channel)
        if mine and question.withdraw:
            raise MigrationError(f"guest {question.identity[:8]} was withdrawn; it stays with its source")
        return False

    # -------------------------------------------------------------------------- what is known

    def _prepared(self) -> Arrival:
        if self._pending is None:
            raise MigrationError("there is no guest whose handover is unsettled")
        return self._pending

    def _note(self) -> None:
        """Remember what became of the pending guest, for its source. The lock is held."""
        arrival = self._prepared()
        self._outcomes[arrival.transfer] = arrival.standing()
        while len(self._outcomes) > OUTCOMES_KEPT:
            del self._outcomes[next(iter(self._outcomes))]
        if arrival.state is Arrival.State.COMMITTED:
            self._epochs[arrival.identity] = arrival.epoch + 1
            if arrival.pager is not None:
                self._pagers = [pager for pager in self._pagers if pager.active]
                self._pagers.append(arrival.pager)
                arrival.pager.start()
        else:
            self._pending = None

    def _outcome(self, question: Settle) -> Standing:
        return self._outcomes.get(question.transfer, Standing("unknown"))

    def _arrived(self) -> Arrival | None:
        """The guest that has become ours, once."""
        with self._lock:
            pending = self._pending
            if pending is None or pending.state is not Arrival.State.COMMITTED:
                return None
            self._pending = None
            return pending

    # -------------------------------------------------------------- answering between receives

    def _start_answering(self) -> None:
        if self._pending is None and not self._closed:
            self._answering = threading.Thread(target=self._answer, name="settle", daemon=True)
            self._answering.start()

    def _stop_answering(self) -> None:
        thread, self._answering = self._answering, None
        if thread is not None:
            self._acceptor.wake()
            thread.join()

    def _answer(self) -> None:
        me = threading.current_thread()
        while self._answering is me:
            channel = None
            with contextlib.suppress(HostError):
                channel = self._acceptor.accept(None)
            if channel is None:
                continue
            with contextlib.ExitStack() as held:
                held.enter_context(channel)
                first = self._first_message(channel)
                if isinstance(first, Settle) and self._settle(channel, first):
                    held.pop_all()
                elif isinstance(first, Hello):
                    channel.refuse(Refused("no one waits for a guest there"))


def _incoming(hello: Hello, recorder: Recorder) -> str:
    return f"incoming guest {hello.identity[:8]} failed in phase {recorder.phase}"
