"""What the source does when the link broke: connect again, ask, and act on the answer.

``protocol`` has the table. Nothing in here lets time decide: an answer settles the matter, and the
lack of one leaves it as it is.
"""

from __future__ import annotations

import time
from typing import Literal

from hypervisor.errors import MigrationError
from hypervisor.migration.address import Address
from hypervisor.migration.channel import Channel, LinkError, Timeouts, connect
from hypervisor.migration.credentials import NO_CREDENTIALS, Credentials
from hypervisor.migration.postcopy import PageServer
from hypervisor.migration.protocol import Ack, Departure, Standing

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


class Handover:
    """A handover that did not end well, and the ways to end it."""

    def __init__(
        self,
        departure: Departure,
        address: Address,
        timeouts: Timeouts,
        credentials: Credentials = NO_CREDENTIALS,
    ) -> None:
        self._departure = departure
        self.address = address
        self.timeouts = timeouts
        self._credentials = credentials
        self.pages: PageServer | None = None
        """In post-copy: has the pages that follow the guest."""

    @property
    def state(self) -> Departure.State:
        """OWNER: the guest may run here. GONE: it runs there. IN_DOUBT: neither, yet. OWING: it runs there, and
        needs pages from here.
        """
        return self._departure.state

    @property
    def owed(self) -> int:
        """Pages that follow the guest and that are not known to have arrived."""
        return 0 if self.pages is None else self.pages.left

    def settle(self) -> Departure.State:
        """Ask the destination once.

        An owner asks it to throw away the copy that it may hold, which is only a courtesy. In post-copy, this
        sends the pages that the destination is missing.

        Raises:
            MigrationError: it does not answer, or knows nothing of this guest. ``state`` is as before.
        """
        departure = self._departure
        if departure.state is Departure.State.GONE:
            return departure.state
        with connect(self.address, self.timeouts, self._credentials) as channel:
            channel.send(departure.settle_message())
            outcome = channel.receive(Standing).outcome
            if departure.state is Departure.State.OWNER:
                if outcome == "committed":
                    raise MigrationError(
                        f"the guest runs here and at {self.address}: an operator forced one of them; stop one"
                    )
            elif outcome == "unknown":
                raise MigrationError(
                    f"the monitor at {self.address} knows nothing of this handover; it may have run the guest "
                    "before it was started anew, so only you can decide to force the guest to run here"
                )
            elif outcome == "abandoned":
                departure.returned()
            else:
                self._hand_over(channel, outcome)
        return departure.state

    def _hand_over(self, channel: Channel, outcome: Literal["prepared", "committed", "incomplete"]) -> None:
        """The destination can own the guest, or does; help it to what it is missing for that."""
        departure = self._departure
        if outcome == "prepared":
            channel.send(departure.commit())
            channel.receive(Ack)
        if departure.state is Departure.State.IN_DOUBT:
            departure.gone()
        if departure.state is not Departure.State.OWING:
            return
        if outcome != "committed":
            self.follow(channel, resumed=outcome == "incomplete")
        else:
            departure.complete()

    def follow(self, channel: Channel, *, resumed: bool = False) -> None:
        """Post-copy: send the pages that are owed. Raises LinkError; what has not arrived is still owed then."""
        assert self.pages is not None
        if resumed:
            self.pages.resume(channel)
        else:
            self.pages.serve(channel)
        self._departure.complete()

    def settle_within(self, seconds: float) -> Departure.State:
        """Ask, and again while the link is broken, for so long without progress; then leave it as it is."""
        deadline = time.monotonic() + seconds
        pause = _FIRST_PAUSE
        owed = self.owed
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return self.state
            try:
                return self.settle()
            except LinkError:
                if self.owed < owed:
                    owed, deadline, pause = self.owed, time.monotonic() + seconds, _FIRST_PAUSE
                else:
                    time.sleep(min(pause, left))
                    pause = min(2 * pause, _LONGEST_PAUSE)

    def force(self) -> None:
        """Run the guest here after all. Only for an operator who knows that it does not run there."""
        self._departure.force()
