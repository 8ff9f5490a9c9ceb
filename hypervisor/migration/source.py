"""Sending a guest to another monitor. Read ``protocol`` first."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from hypervisor.errors import HypervisorError, MigrationError, UsageError
from hypervisor.marks import how_many
from hypervisor.migration.address import Address, parse_address
from hypervisor.migration.channel import PATIENCE, Channel, LinkError, Timeouts, connect
from hypervisor.migration.credentials import NO_CREDENTIALS, Credentials
from hypervisor.migration.encoding import Link, Packer
from hypervisor.migration.policy import FixedRounds, Policy, PreCopyPolicy
from hypervisor.migration.postcopy import MODES, Mode, PageServer
from hypervisor.migration.precopy import VERSIONS, Answers, PreCopy
from hypervisor.migration.prepaging import Bubbling, PrePaging
from hypervisor.migration.protocol import (
    PROTOCOL_VERSION,
    Ack,
    Configure,
    Departure,
    Hello,
    Machine,
    Prepared,
    Welcome,
)
from hypervisor.migration.recorder import Recorder
from hypervisor.migration.report import Part, Phase, Report
from hypervisor.migration.settle import Handover
from hypervisor.state.codec import Encoder
from hypervisor.state.live import LiveWriter
from hypervisor.state.parts import Configuration
from hypervisor.state.sections import Readable
from hypervisor.state.stream import Progress


class SendError(MigrationError):
    """The guest was not handed over. It is still here and may go on; ``handover.settle()`` tidies up there."""

    def __init__(self, message: str, handover: Handover) -> None:
        super().__init__(message)
        self.handover = handover


class UnsettledError(SendError):
    """The link broke in the handover, and it is unknown whether the guest runs there.

    The copy here stays stopped until ``handover.settle()`` gets an answer or an operator calls
    ``handover.force()``.
    """


class OwingError(SendError):
    """The guest runs at the destination, but the link broke before all of its pages were there.

    They are still here, and it waits for them: ``handover.settle()`` sends them. ``vm`` is needed until then.
    """


def send(
    vm: Machine,
    address: str | Address,
    *,
    mode: Mode = "precopy",
    policy: Policy | None = None,
    prepaging: Callable[[], PrePaging] = Bubbling,
    progress: Progress | None = None,
    report: Report | None = None,
    timeouts: Timeouts = PATIENCE,
    credentials: Credentials = NO_CREDENTIALS,
) -> Report:
    """Hand a guest over to the monitor that listens at ``address``.

    If another thread runs the guest, it goes on meanwhile, until ``policy`` stops it (``precopy``: by default a
    PreCopyPolicy; ``hybrid``: after one round; ``postcopy`` makes no rounds, so it has no policy). When this
    returns, the guest runs there and has all of its pages, its run here has ended or is about to (``moved``),
    and ``vm`` is only good for ``close``. If this raises SendError, a guest that ran goes on.
    ``prepaging`` says in which order pages follow the guest. ``progress`` gets the bytes of RAM that need not be sent any more; ``report`` is filled in
    while it goes on, and returned.

    Raises:
        UsageError: that is no address or no mode, or ``credentials`` are missing that it needs.
        OwingError: the guest runs there, and is missing pages that are here.
        UnsettledError: nobody knows who has the guest; ``vm.owned`` is false and stays so for now.
        SendError: any failure before that; ``vm.owned`` is true.
        MigrationError: the guest is not owned by this monitor.
    """
    target = parse_address(address)
    credentials.check(target)
    policy = _policy(mode, policy)
    departure = Departure(vm)
    handover = Handover(departure, target, timeouts, credentials)
    recorder = Recorder(Report() if report is None else report, progress)
    channel: Channel | None = None
    broken = None
    try:
        channel = connect(target, timeouts, credentials)
        _introduce(channel, departure, recorder)
        owed = _transfer(channel, departure, recorder, policy, mode)
        if how_many(owed):
            departure.owes = True
            handover.pages = PageServer(vm, owed, departure.transfer, recorder, prepaging)
        _commit(channel, departure, recorder)
    except BaseException as error:
        sent = 0 if channel is None else channel.sent
        if channel is not None:
            channel.close()
        if departure.state is Departure.State.OWNER:
            departure.abort()  # whatever it was, nothing is committed: the guest goes on here
            recorder.finish("failed", sent, error)
            if not isinstance(error, HypervisorError):
                raise
            raise SendError(
                f"migration to {target} failed in phase {recorder.phase}: {error}; the guest is still here",
                handover,
            ) from None
        broken = error
        if departure.state is Departure.State.IN_DOUBT:
            _resolve(handover, recorder, sent, error, timeouts)
    finally:
        departure.release()
    assert channel is not None
    recorder.resumed(channel.sent)
    with channel:
        if departure.state is Departure.State.OWING:
            _follow(channel, handover, recorder, broken)
    recorder.finish("completed", max(channel.sent, recorder.report.ram.transferred))
    return recorder.report


def _policy(mode: Mode, policy: Policy | None) -> Policy:
    """How many rounds there are in this mode."""
    if mode not in MODES:
        raise UsageError(f"no migration mode {mode!r}: there are {', '.join(MODES)}")
    if mode == "postcopy":
        if policy is not None:
            raise UsageError("post-copy makes no rounds: a policy goes with precopy and hybrid")
        return FixedRounds(0)
    if policy is not None:
        return policy
    return FixedRounds(1) if mode == "hybrid" else PreCopyPolicy()


def _introduce(channel: Channel, departure: Departure, recorder: Recorder) -> None:
    """Say who is to come. That the destination is ready is waited for before the guest is stopped."""
    channel.send(Hello(PROTOCOL_VERSION, departure.identity, departure.epoch, departure.transfer))
    channel.receive(Welcome)
    recorder.enter(Phase.CONFIGURATION)
    channel.send(Configure(departure.vm.config))


def _transfer(
    channel: Channel, departure: Departure, recorder: Recorder, policy: Policy, mode: Mode
) -> bytearray:
    """Send the guest, until the destination is prepared to run it.

    Returns marks of the pages that it is missing then, of which there are none after pre-copy.
    """
    vm = departure.vm

    def write(data: Readable) -> None:
        try:
            channel.write(data)
        except LinkError as error:
            # A destination that finds the stream wrong says so and closes; that is the better message.
            raise MigrationError(channel.last_words() or str(error)) from None

    recorder.enter(Phase.MEMORY)
    link = Link(write)
    head = Configuration(vm.config, departure.identity, departure.epoch)
    packer = Packer(link)
    out = LiveWriter(link.write, head, Encoder(vm.ram, VERSIONS, secrets.randbits(64)), packer)
    answers = Answers(channel)
    with PreCopy(departure, out, link, recorder, policy, answers) as memory:
        memory.rounds()
        if mode == "hybrid" and vm.replayable:
            memory.checkpoint()
        answers.ready()
        recorder.enter(Phase.STOP)
        departure.stop()
        recorder.part(Part.STOP)
        recorder.enter(Phase.FINAL_STATE)
        if mode == "precopy":
            memory.last_pages()
            owed = bytearray()
        else:
            owed = memory.leave_pages()
        state = vm.capture()
        digest = out.finish(state, owed or None, vm.journal)
        recorder.part(Part.STATE)
        recorder.compressed(packer.chunks, packer.before, packer.after)
        recorder.enter(Phase.PREPARED)
        prepared = channel.receive(Prepared)
        recorder.part(Part.TRANSFER)
        if (prepared.transfer, prepared.digest) != (departure.transfer, digest):
            raise MigrationError("the destination prepared something else than what was sent")
    return owed


def _commit(channel: Channel, departure: Departure, recorder: Recorder) -> None:
    recorder.enter(Phase.COMMIT)
    message = departure.commit()
    channel.send(message)
    ack = channel.receive(Ack)
    if (ack.transfer, ack.epoch) != (message.transfer, message.epoch):
        raise MigrationError("the destination acknowledged something else than what was committed")
    departure.gone()
    recorder.part(Part.ACTIVATION)


def _follow(channel: Channel, handover: Handover, recorder: Recorder, broken: BaseException | None) -> None:
    """The guest runs there: send its pages after it, over as many connections as that takes.

    ``broken``: why ``channel`` is no good any more, if so.
    """
    if broken is None:
        try:
            handover.follow(channel)
        except (HypervisorError, KeyboardInterrupt) as error:
            broken = error
    reason = _reason(broken)
    if isinstance(broken, LinkError):
        recorder.paused()
        try:
            handover.settle_within(handover.timeouts.settle)
        except (HypervisorError, KeyboardInterrupt) as error:
            reason = f"{reason}; {_reason(error)}"
    if handover.state is not Departure.State.OWING:
        return
    recorder.finish("postcopy-paused", recorder.report.ram.transferred, reason)
    raise OwingError(
        f"migration to {handover.address}: the guest runs there, but the link broke before all of its pages had "
        f"arrived ({reason}); it waits for them",
        handover,
    ) from None


def _reason(error: BaseException | None) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or repr(error)


def _resolve(
    handover: Handover, recorder: Recorder, sent: int, error: BaseException, timeouts: Timeouts
) -> None:
    """Commit was sent, no Ack came: return if the guest is there after all, else say how it stands."""
    # Somebody who interrupts has waited long enough; what they get is still the way to settle it.
    reason = _reason(error)
    if isinstance(error, MigrationError):
        try:
            handover.settle_within(timeouts.settle)
        except (MigrationError, KeyboardInterrupt) as unsettled:
            reason = f"{reason}; {unsettled}" if str(unsettled) else reason
    if handover.state in (Departure.State.GONE, Departure.State.OWING):
        return
    if handover.state is Departure.State.OWNER:
        recorder.finish("failed", sent, reason)
        raise SendError(
            f"migration to {handover.address} failed in the handover: {reason}; the destination gave the guest "
            "up, it is still here",
            handover,
        ) from None
    recorder.finish("unsettled", sent, reason)
    raise UnsettledError(
        f"migration to {handover.address}: the link broke in the handover ({reason}); the guest stays stopped "
        "here until it is settled with the destination",
        handover,
    ) from None
