"""One number for all that a guest could ever observe: the oracle of whoever stops, moves or disturbs it.

Two machines with the same digest cannot be told apart from inside. Which machine it is, and under which technique,
is not part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from hypervisor.devices.disk import Disk
from hypervisor.ext.pages import classify
from hypervisor.state.model import MachineState, encode


def digest(state: MachineState, ram: memoryview, disks: Iterable[Disk]) -> str:
    """Of a machine that stands still."""
    whole = hashlib.blake2b(digest_size=16)
    for part in (state.cpu, state.clock):
        whole.update(encode(part))
    for name in sorted(state.devices):
        whole.update(name.encode() + encode(state.devices[name]))
    for disk in disks:
        whole.update(disk.contents().encode())
    present = classify(ram)
    whole.update(present)
    for byte, bits in enumerate(present):
        if bits:
            # Pages that are all zero are in the bitmap already.
            whole.update(ram[byte << 15 : (byte + 1) << 15])
    return whole.hexdigest()


def digests(state: MachineState, ram: memoryview, disks: Iterable[Disk]) -> dict[str, str]:
    """Of each component, to find out where two machines differ."""
    parts: dict[str, bytes | memoryview] = {
        "cpu": encode(state.cpu),
        "clock": encode(state.clock),
        "ram": ram,
    }
    parts.update({f"device {name}": encode(device) for name, device in state.devices.items()})
    parts.update({f"disk {disk.index}": disk.contents().encode() for disk in disks})
    return {name: hashlib.blake2b(data, digest_size=8).hexdigest() for name, data in parts.items()}
