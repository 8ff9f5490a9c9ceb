"""The guest's stack, as instructions and events use it that the monitor carries out."""

from __future__ import annotations

from hypervisor.hardware.x86 import ESP, SS
from hypervisor.monitor.vcpu import VirtualCpu


class Stack:
    """Pushes and pops on a stack that becomes the guest's only when everything went well."""

    def __init__(self, v: VirtualCpu, base: int, offset: int, mask: int, user: bool) -> None:
        self.v = v
        self.base = base
        self.offset = offset
        self.mask = mask
        self.user = user

    @staticmethod
    def current(v: VirtualCpu) -> Stack:
        return Stack(v, v.cpu.segment_base(SS), v.cpu.general(ESP), v.get_stack_mask(), v.is_user())

    def push(self, size: int, value: int) -> None:
        self.offset = self.offset & ~self.mask | (self.offset - size) & self.mask
        self.v.store(self.base + (self.offset & self.mask), size, value, self.user)

    def peek(self, depth: int, size: int) -> int:
        """What lies so many bytes above the top."""
        return self.v.load(self.base + (self.offset + depth & self.mask), size, self.user)

    def pop(self, size: int) -> int:
        value = self.peek(0, size)
        self.skip(size)
        return value

    def skip(self, count: int) -> None:
        self.offset = self.offset & ~self.mask | (self.offset + count) & self.mask
