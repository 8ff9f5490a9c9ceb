"""RAM that is somewhere else, for tests: a machine's frames come back one by one, as they are needed."""

from __future__ import annotations

from hypervisor.machine import VirtualMachine

GARBAGE = b"\xcc\x0b\xf0\xad"
"""What the machine's RAM holds meanwhile: whoever looks at it too soon goes astray."""


class FarRam:
    """A frame source that has taken a machine's RAM away. ``wanted`` tells which frames were asked for."""

    def __init__(self, vm: VirtualMachine) -> None:
        self._vm = vm
        self._contents = b""
        self.wanted: list[int] = []

    def take(self) -> None:
        """From now on no frame of RAM is here; the guest stands still."""
        vm = self._vm
        view = vm.ram
        self._contents = bytes(view)
        view[:] = GARBAGE * (len(view) // len(GARBAGE))
        vm.paging.forget_code()
        vm.absent.begin(b"\1" * (len(view) >> 12), self)

    def want(self, frame: int) -> None:
        self.wanted.append(frame)
        assert self._vm.absent.admit(frame, 1, self._contents[frame << 12 : (frame + 1) << 12]) == 1

    def finished(self) -> None:
        pass
