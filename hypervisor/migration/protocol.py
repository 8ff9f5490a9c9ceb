"""Who owns the guest: the handover between two monitors, its states and its messages.

    source                                                 destination

    OWNER     ── Hello ───────────────────────────────▶    nothing           Setup
      │       ◀────────────────────────────── Welcome ──
      │       ── Configure ───────────────────────────▶    makes a machine   Configuration
      │       ══ the checked stream: a round of RAM ══▶    fills its RAM     Memory rounds
      │       ◀──────────────────────────────── Ready ──   (when the machine is made)
      │       ◀──────────────────────── RoundReceived ──   (after each round)
      │ stop                                                                 Stop
      │       ══ last pages, state ═══════════════════▶    checks, restores  Final state
      │                                                      │
      │       ◀───────────────────────────── Prepared ──   PREPARED          Prepared
      ▼
    IN_DOUBT  ── Commit ──────────────────────────────▶      │               Commit
      │                                                      ▼
      ▼       ◀────────────────────────────────── Ack ──   OWNER             Running there
    GONE

    OWNER:  the guest may run here, and nowhere else.
    Every other state keeps its copy of the guest stopped, for ever if need be.

In post-copy the stream leaves pages out, and the source still owes them when the guest runs there::

      ▼       ◀────────────────────────────────── Ack ──   OWNER             Running there
    OWING     ══ pages, pushed and wanted ════════════▶    fetches them      Post-copy
      │       ◀───────────────────────────────── Want ──
      ▼       ◀───────────────────────────── Complete ──
    GONE

Whoever fails to restore, fails before Prepared; a Commit cannot be refused. Until the source begins
to send Commit it is OWNER, and any failure means that it goes on (the destination may hold a
PREPARED copy then, which is of no use to anyone). From its first byte on the source cannot know
whether Commit arrived: it is IN_DOUBT, and stays it until it *hears* from the destination. No timeout
leads out of IN_DOUBT or PREPARED. That is all there is to "one owner", because

    the only way to OWNER at the destination is a Commit, and the source sent it before, thus is not OWNER;
    the only way back to OWNER at the source is an answer "abandoned", which the destination gives only
    for a copy it threw away, and a copy once thrown away never runs.

When the link broke, the source connects again and says Settle with the guest's identity and epoch and
the name of this transfer (a guest may make several attempts from the same epoch):

    source     destination says                 then
    IN_DOUBT   Standing(committed)              GONE
    IN_DOUBT   Standing(incomplete)             OWING: it learns which pages are missing, and sends them
    IN_DOUBT   Standing(prepared)               it sends Commit again: Ack, GONE
    IN_DOUBT   Standing(abandoned)              OWNER
    IN_DOUBT   Standing(unknown)                IN_DOUBT: that monitor was started anew, and may have run the
                                                guest before; only an operator can know (``force``)
    OWNER      (withdraw) Standing(abandoned)   the useless copy is gone
    OWING      Standing(incomplete)             it learns which pages are missing, and sends them
    OWING      Standing(committed)              GONE: the destination has all pages, or can do without

Two more ways to OWNER are open to an operator only, who knows that the other side is dead: ``force``
at either side. (An OWING source has the guest as it was when it left: what it did since is lost with the
destination.) A forced source skips an epoch, so that its guest can be told from one that
the destination has run in the meantime.

The design follows Clark et al. (NSDI 2005, section 3.2) and the two-phase commit of Gray, whose window
of doubt cannot be closed but only kept safe.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, TypeVar

from msgspec import Meta, Struct

from hypervisor.errors import HypervisorError, MigrationError
from hypervisor.state.journal import Input, Journal, Moment
from hypervisor.state.model import U32, U63, MachineConfig, MachineState

if TYPE_CHECKING:
    from hypervisor.migration.pager import Pager
    from hypervisor.paging.absent import AbsentFrames

PROTOCOL_VERSION = 3

Identity = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Transfer = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]


T = TypeVar("T")


class DirtyLog(Protocol):
    """Which pages of RAM are written to, by the guest, by its devices or by the monitor.

    ``start``, ``harvest`` and ``stop`` are only called while the guest stands still.
    """

    def another(self) -> DirtyLog:
        """A log of the same RAM that is not started: everybody who copies it has one."""
        ...

    @property
    def active(self) -> bool: ...
    def start(self) -> None:
        """All pages are clean now."""
        ...

    def harvest(self) -> bytearray:
        """A byte for each page, not 0 if it was written to; and now all are clean again."""
        ...

    def stop(self) -> None: ...


class Frozen(Protocol):
    """What RAM held at one moment; see paging/copy_on_write.py."""

    def read(self, first: int, stop: int) -> None: ...
    @property
    def view(self) -> memoryview: ...
    def forget(self, first: int, stop: int) -> None: ...
    def put_back(self) -> None: ...
    def end(self) -> None: ...


class Machine(Protocol):
    """What a migration needs of a virtual machine, which another thread may be running."""

    epoch: int
    owned: bool
    """May the guest run here? While this is false, ``run`` must refuse."""

    @property
    def config(self) -> MachineConfig: ...
    @property
    def identity(self) -> str: ...
    @property
    def ended(self) -> object:
        """How the guest ended its life, so that it need not be moved any more; else None."""
        ...

    @property
    def dirty(self) -> DirtyLog: ...
    @property
    def absent(self) -> AbsentFrames: ...
    @property
    def ram(self) -> memoryview:
        """All of it; waits for what is absent."""
        ...

    @property
    def ram_file(self) -> int:
        """The descriptor of a file that ``ram`` is a shared mapping of; -1: it is none."""
        ...

    def present(self) -> bytes:
        """A byte for each page of RAM, 0 where it has never been written to, thus is all zero."""
        ...

    def visit(self, work: Callable[[], T], /) -> T:
        """Do something while the guest stands still; it goes on afterwards."""
        ...

    def hold(self) -> None:
        """Make the guest stand still until ``release``. ``capture`` needs that."""
        ...

    def release(self) -> None: ...
    def nudge(self) -> None:
        """Make a guest that runs look around, from any thread."""
        ...

    def capture(self) -> MachineState: ...
    def restore(self, state: MachineState) -> None: ...

    @property
    def replayable(self) -> bool:
        """Do its state and its journal make up its future? The rest is for machines where this is so."""
        ...

    journal: Journal | None
    rescue: Callable[[], None] | None

    @property
    def moment(self) -> Moment: ...
    def freeze(self, frames: bytes | bytearray, /) -> Frozen: ...
    def go_back(self, state: MachineState, told: int, /) -> None: ...
    def replay(self, inputs: Iterable[Input], end: Moment, /) -> MachineState: ...
    def close(self) -> None: ...


# ----------------------------------------------------------------------------------------- messages


class Hello(Struct, tag=True, frozen=True):
    """The first message. Unknown fields are ignored here, so that a later version can be refused politely."""

    version: int
    identity: Identity
    epoch: U63
    transfer: Transfer


class Welcome(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    version: int


class Refused(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """Instead of any answer before Prepared."""

    reason: Annotated[str, Meta(max_length=1000)]


class Configure(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    config: MachineConfig


class Ready(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """A machine of that configuration exists.

    The source does not wait for it with the rounds of RAM, which lie in the sockets' buffers meanwhile: making a
    machine takes as long as the first of them. It waits before it stops the guest.
    """


class RoundReceived(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """The destination has all of a round in place.

    So the source knows how long a round really takes, whatever lies in the sockets' buffers, and stops the guest
    only when the destination waits for nothing but the rest.
    """

    number: U32


class Prepared(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    transfer: Transfer
    digest: Annotated[bytes, Meta(min_length=32, max_length=32)]
    """Of the stream as it was received."""


class Commit(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    transfer: Transfer
    identity: Identity
    epoch: U63
    """The new one."""


class Ack(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    transfer: Transfer
    epoch: U63


class Settle(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """The first message of a connection that continues an earlier one."""

    version: int
    identity: Identity
    epoch: U63
    """The one before the handover."""
    transfer: Transfer
    withdraw: bool
    """The sender is OWNER and asks that the prepared copy be thrown away."""


class Standing(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    outcome: Literal["prepared", "committed", "incomplete", "abandoned", "unknown"]
    """``incomplete``: committed, and a stream follows that tells which pages are missing (see state/residue.py)."""


class Want(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """The guest waits for this page."""

    page: U32


class Complete(Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """No page is missing any more."""

    transfer: Transfer


Message = (
    Hello
    | Welcome
    | Refused
    | Configure
    | Ready
    | RoundReceived
    | Prepared
    | Commit
    | Ack
    | Settle
    | Standing
    | Want
    | Complete
)


# ------------------------------------------------------------------------------------------ source


class Departure:
    """The source's side of one handover.

    Only these methods change ``state``, each checks where it comes from, and each keeps ``vm.owned``
    in step with it.
    """

    class State(enum.Enum):
        OWNER = "owner"
        IN_DOUBT = "in doubt"
        OWING = "gone, but for some of its pages"
        GONE = "gone"

    def __init__(self, vm: Machine) -> None:
        if not vm.owned:
            raise MigrationError("the guest is not owned by this monitor, so it cannot be sent from here")
        self.vm = vm
        self._held = False
        self.identity = vm.identity
        self.epoch = vm.epoch
        self.transfer = secrets.token_hex(16)
        self.state = Departure.State.OWNER
        self.owes = False
        """Do pages follow after the guest?"""

    def stop(self) -> None:
        """What is captured now must stay what it is: nobody may run the guest while it travels."""
        self._require(Departure.State.OWNER)
        self.vm.hold()
        self._held = True
        if self.vm.ended is not None:
            raise MigrationError("the guest has ended")
        self.vm.owned = False

    def abort(self) -> None:
        """Something failed before Commit: the guest goes on here."""
        self._require(Departure.State.OWNER)
        self.vm.owned = True

    def commit(self) -> Commit:
        """Give up the guest, *then* take the message that says so and send it."""
        self._require(Departure.State.OWNER, Departure.State.IN_DOUBT)
        self.vm.owned = False
        self.state = Departure.State.IN_DOUBT
        return Commit(self.transfer, self.identity, self.epoch + 1)

    def gone(self) -> None:
        """The destination said that it is the owner."""
        self._require(Departure.State.IN_DOUBT)
        self.state = Departure.State.OWING if self.owes else Departure.State.GONE

    def complete(self) -> None:
        """The destination said that it needs nothing more."""
        self._require(Departure.State.OWING)
        self.state = Departure.State.GONE

    def returned(self) -> None:
        """The destination said that it has thrown its copy away."""
        self._require(Departure.State.IN_DOUBT)
        self.state = Departure.State.OWNER
        self.vm.owned = True

    def release(self) -> None:
        """The attempt is over: let the guest go on if it is owned here, and else let its run end."""
        if self._held:
            self._held = False
            self.vm.release()

    def force(self) -> None:
        """The operator says that the destination does not run the guest and never will."""
        self._require(Departure.State.IN_DOUBT, Departure.State.OWING)
        self.vm.epoch = self.epoch + 2
        self.state = Departure.State.OWNER
        self.vm.owned = True

    def settle_message(self) -> Settle:
        withdraw = self.state is Departure.State.OWNER
        return Settle(PROTOCOL_VERSION, self.identity, self.epoch, self.transfer, withdraw)

    def _require(self, *states: State) -> None:
        if self.state not in states:
            raise MigrationError(
                f"handover of guest {self.identity[:8]}: not possible, it is {self.state.value}"
            )


# ------------------------------------------------------------------------------------- destination


class Arrival:
    """The destination's side of one handover, from Prepared on."""

    class State(enum.Enum):
        PREPARED = "prepared"
        COMMITTED = "committed"
        ABANDONED = "abandoned"

    def __init__(self, vm: Machine, hello: Hello, pager: Pager | None = None) -> None:
        """``pager``: brings the pages that come after the guest."""
        self.vm = vm
        self.pager = pager
        self.identity = hello.identity
        self.epoch = hello.epoch
        self.transfer = hello.transfer
        self.state = Arrival.State.PREPARED

    def commit(self, message: Commit) -> Ack:
        """Become the owner. A Commit that is not for this copy changes nothing."""
        self._require(Arrival.State.PREPARED)
        if (message.transfer, message.identity, message.epoch) != (
            self.transfer,
            self.identity,
            self.epoch + 1,
        ):
            raise MigrationError("the peer committed another guest than the one prepared here")
        self._own()
        return Ack(self.transfer, self.epoch + 1)

    def abandon(self) -> None:
        """Throw the copy away: it will never run."""
        self._require(Arrival.State.PREPARED)
        self.state = Arrival.State.ABANDONED
        self.vm.close()

    def force(self) -> None:
        """The operator says that the source does not run the guest and never will."""
        self._require(Arrival.State.PREPARED)
        if self.vm.absent.count and self.vm.rescue is None:
            raise MigrationError(
                f"arrival of guest {self.identity[:8]}: not possible, {self.vm.absent.count} of its pages are "
                "still at its source"
            )
        self._own()

    def standing(self) -> Standing:
        return Standing(self.state.value)

    def _own(self) -> None:
        self.state = Arrival.State.COMMITTED
        self.vm.epoch = self.epoch + 1
        self.vm.owned = True

    def _require(self, state: State) -> None:
        if self.state is not state:
            raise MigrationError(
                f"arrival of guest {self.identity[:8]}: not possible, it is {self.state.value}"
            )


def refusal(error: HypervisorError) -> Refused:
    """An error as the peer's user will read it."""
    return Refused(str(error)[:1000])
