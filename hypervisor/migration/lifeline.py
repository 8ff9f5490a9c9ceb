"""Should the source die before the last page has come: a way back for the guest, without it.

In every other system losing the source in post-copy loses the guest: some of its memory was nowhere else. Here
the guest's future follows from its state and its inputs (monitor/replay.py), so it is enough to have *an*
older state of it, whole, and what was typed since. In hybrid mode the source sends both. Its last round
is a *checkpoint*: the guest stands still while its registers are taken and its RAM is put under copy on write
(paging/copy_on_write.py), and runs on while the pages go out as they were in that moment. When all are there,
the destination's RAM is the guest's at that instruction. Then the guest is handed over, with the journal of its
inputs since. From then on the destination keeps what the checkpoint's RAM held, again by copy on write: before
the guest stores to a frame, and before one of the pages that follow replaces an outdated one. When the last
has come, all that is dropped.

When the source is given up instead, RAM is put back to the checkpoint, and the guest lives through the time since
once more, without its console output being told twice: up to the switch, where it must be in the very state
in which it came, and on to the instruction at which it was missing a page. It has lost nothing but time: about
as much as has passed since the checkpoint.

What this does not do: without the exact clock there is no replaying, and a persistent disk does not go back in
time; such a guest waits for its source, and so does one that was moved by post-copy alone: no round, no
checkpoint. The price is memory for the frames that change until the last page has come, and one more round.
"""

from __future__ import annotations

import logging
from typing import Final

from hypervisor.errors import StateError
from hypervisor.migration.protocol import Machine
from hypervisor.migration.recorder import Recorder
from hypervisor.state.codec import PAGE_SIZE
from hypervisor.state.journal import Moment
from hypervisor.state.live import Checkpoint
from hypervisor.state.model import MachineState, encode

log = logging.getLogger("hypervisor.migration")

PARTS: Final = ("processor", "clock", "devices")


class Lifeline:
    """Keeps a guest's checkpoint. To be made before it runs here, when RAM holds what it held then."""

    def __init__(
        self, vm: Machine, checkpoint: Checkpoint, arrived: MachineState, recorder: Recorder
    ) -> None:
        """``arrived``: the state in which the guest came."""
        self._vm = vm
        self._state = checkpoint.state
        self._journal = checkpoint.journal
        self._before = len(checkpoint.journal.inputs)
        """So many inputs came in at the source."""
        self._arrived = arrived
        self._recorder = recorder
        self._copy = vm.freeze(b"\1" * (vm.config.memory // PAGE_SIZE))
        vm.journal = self._journal
        vm.rescue = self._rescue

    def end(self) -> None:
        """All pages are here: nothing can be lost any more."""
        self._vm.rescue = self._vm.journal = None
        self._copy.end()

    def _rescue(self) -> None:
        """On the guest's thread: go back to the checkpoint, and on to where the guest is now."""
        vm, journal, here = self._vm, self._journal, self._vm.moment
        self._recorder.recovering()
        vm.absent.end()
        self._copy.put_back()
        self.end()
        vm.go_back(self._state, journal.told)
        clock = self._arrived.clock
        state = vm.replay(journal.inputs[: self._before], Moment(clock.instructions, clock.skipped))
        for part, ours, theirs in zip(PARTS, parts(state), parts(self._arrived), strict=True):
            if ours != theirs:
                raise StateError(
                    f"the guest cannot be replayed: its {part} would not be what came from its source"
                )
        vm.replay(journal.inputs[self._before :], here)
        self._recorder.recovered()
        log.warning(
            "guest %s: brought back from its checkpoint in %.0f ms, its source is not needed any more",
            vm.identity[:8],
            self._recorder.report.recovery_time,
        )


def parts(state: MachineState) -> tuple[bytes, bytes, bytes]:
    """What a state holds but for disks and RAM, so that it can be compared with one that has travelled."""
    devices = b"".join(name.encode() + encode(state.devices[name]) for name in sorted(state.devices))
    return encode(state.cpu), encode(state.clock), devices
