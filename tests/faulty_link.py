"""A TCP proxy that breaks one connection at a chosen byte, and lets every later one through."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from typing import Literal, NamedTuple, Self

from hypervisor.migration import Address

Direction = Literal["to destination", "to source"]


class Fault(NamedTuple):
    """What happens when ``count`` bytes have gone in ``direction``."""

    direction: Direction
    count: int
    kind: Literal["close", "reset", "stall", "flip"]
    """An orderly end, a TCP reset, silence with the connection open, or one bit altered in the next byte."""


class FaultyLink:
    """Stands between a source and ``target``; the fault strikes on the first connection only."""

    def __init__(self, target: Address, fault: Fault | None = None) -> None:
        self._target = target
        self._fault = fault
        self._server = socket.create_server(("127.0.0.1", 0))
        self._stop, self._stopped = socket.socketpair()
        self.address = Address("127.0.0.1", self._server.getsockname()[1])
        self.carried: dict[Direction, int] = {"to destination": 0, "to source": 0}
        """Bytes on the first connection."""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.send(b"\0")
        self._thread.join()
        for end in (self._server, self._stop, self._stopped):
            end.close()

    def cut(self) -> None:
        """End the connection, now, and let no other through."""
        self._stop.send(b"\0")
        self._thread.join()
        self._server.close()

    def _run(self) -> None:
        fault = self._fault
        stalled: list[socket.socket] = []
        while self._readable([self._server]):
            source, _ = self._server.accept()
            destination = socket.create_connection(self._target[:2])
            for end in (source, destination):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._carry(source, destination, fault) and fault is not None and fault.kind == "stall":
                stalled += [source, destination]  # silent, but open
            else:
                source.close()
                destination.close()
            fault = None
        for end in stalled:
            end.close()

    def _readable(self, sockets: list[socket.socket]) -> list[socket.socket]:
        """Those with something to read; none when it is time to stop."""
        with selectors.DefaultSelector() as selector:
            for one in [*sockets, self._stopped]:
                selector.register(one, selectors.EVENT_READ)
            ready = [key.fileobj for key, _ in selector.select()]
        return [] if self._stopped in ready else ready  # type: ignore[return-value]

    def _carry(self, source: socket.socket, destination: socket.socket, fault: Fault | None) -> bool:
        """Carry bytes until one side ends it or the fault strikes; True if it did."""
        first = self.carried["to destination"] == 0
        carried: dict[Direction, int] = {"to destination": 0, "to source": 0}
        if fault is not None and fault.count == 0 and fault.kind != "flip":
            return self._strike(source, destination, fault)
        while True:
            for end in (ready := self._readable([source, destination])):
                direction: Direction = "to destination" if end is source else "to source"
                try:
                    data = end.recv(1 << 16)
                except ConnectionError:
                    data = b""
                if not data:
                    return False
                struck = False
                if fault is not None and fault.direction == direction:
                    at = fault.count - carried[direction]
                    if fault.kind == "flip":
                        if 0 <= at < len(data):
                            data = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
                    elif at <= len(data):
                        data = data[:at]
                        struck = True
                with contextlib.suppress(ConnectionError):
                    (destination if end is source else source).sendall(data)
                carried[direction] += len(data)
                if first:
                    self.carried = dict(carried)
                if struck:
                    assert fault is not None
                    return self._strike(source, destination, fault)
            if not ready:
                return False

    def _strike(self, source: socket.socket, destination: socket.socket, fault: Fault) -> bool:
        if fault.kind == "reset":
            for end in (source, destination):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return True
