"""Post-copy: the guest runs at the destination first, and its pages follow (Hines & Gopalan, VEE 2009).

This is the source's half, ``pager`` the destination's. The source sends the pages that it owes in the order
that pre-paging proposes (``prepaging``); a page that the guest waits for goes before all others. Each goes
once. When the link breaks, the destination tells on the next one what it is still missing.

*Hybrid* is the same after some rounds of pre-copy: what was written to since it was sent is owed. So each page
goes twice at most if there was one round, and the guest seldom waits for one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, get_args

from hypervisor.errors import MigrationError
from hypervisor.migration.channel import Channel
from hypervisor.migration.encoding import Link, Packer
from hypervisor.migration.prepaging import STRETCH, Bubbling, PrePaging, Stretch
from hypervisor.migration.protocol import Complete, Machine, Transfer, Want
from hypervisor.migration.recorder import Recorder
from hypervisor.state.codec import Encoder
from hypervisor.state.residue import PageWriter, read_missing

Mode = Literal["precopy", "postcopy", "hybrid"]
MODES: Final = get_args(Mode)


class PageServer:
    """Has the pages that were left behind; ``owed`` marks them."""

    def __init__(
        self,
        vm: Machine,
        owed: bytearray,
        transfer: Transfer,
        recorder: Recorder,
        order: Callable[[], PrePaging] = Bubbling,
    ) -> None:
        """``vm`` stands still, and its RAM stays what it is."""
        self._owed = owed
        self.left = owed.count(1)
        """Pages that are owed: that were not sent, or may not have arrived."""
        self._transfer = transfer
        self._recorder = recorder
        self._make_order = order
        self._encoder = Encoder(vm.ram)
        self._sent = 0
        """Bytes on earlier connections."""

    def resume(self, channel: Channel) -> None:
        """On a new connection, the destination being about to tell what is missing: as ``serve``."""
        self._owed[:] = read_missing(channel.readinto, len(self._owed))
        self.left = self._owed.count(1)
        self.serve(channel)

    def serve(self, channel: Channel) -> None:
        """Send what is owed. Returns when the destination says that it has all.

        Raises:
            LinkError: the link broke; what did not arrive is still owed.
        """
        self._recorder.owing(self.left, self._sent + channel.sent)
        try:
            self._serve(channel)
        finally:
            self._sent += channel.sent

    def _serve(self, channel: Channel) -> None:
        link = Link(channel.write)
        out = PageWriter(link.write, self._encoder, STRETCH, Packer(link))
        order = self._make_order()
        while self.left:
            while channel.ready(0):
                if self._hear(channel, out, order):
                    return
            if self.left:
                self._send(channel, out, order.push(self._owed))
        out.finish()
        while not self._hear(channel, out, order):
            pass

    def _hear(self, channel: Channel, out: PageWriter, order: PrePaging) -> bool:
        """The destination's next message: did it say that it needs nothing more?"""
        message = channel.receive(Want, Complete)
        if isinstance(message, Complete):
            if message.transfer != self._transfer:
                raise MigrationError("the destination completed another transfer than this one")
            return True
        if message.page >= len(self._owed):
            raise MigrationError(
                f"the destination wants page {message.page}, which is outside the guest's RAM"
            )
        self._recorder.requested()
        order.asked(message.page)
        if self._owed[message.page]:  # otherwise it is on its way
            self._send(channel, out, Stretch(message.page, message.page + 1))
        return False

    def _send(self, channel: Channel, out: PageWriter, stretch: Stretch) -> None:
        done = out.pages(self._owed, stretch.first, stretch.until)
        self._owed[stretch.first : done.next] = bytes(done.next - stretch.first)
        self.left -= done.zero + done.raw
        self._recorder.pushed(done, self._sent + channel.sent)
