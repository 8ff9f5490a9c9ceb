"""A connection that breaks in the middle of a message or of a piece of the stream, as seen from one side."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from hypervisor.migration import LinkError
from hypervisor.migration import destination as destination_module
from hypervisor.migration import source as source_module
from hypervisor.migration.channel import Acceptor, Channel, connect

STREAM = "stream"
ANYTHING = "anything"
KINDS = ["cut", "reset", pytest.param("stall", marks=pytest.mark.soak)]
"""How a link breaks. A stall takes as long as the peers' patience."""


class Point(NamedTuple):
    """Where a link breaks: in the n-th message of a kind, in the n-th piece of the stream, or in the n-th of all."""

    said: str
    number: int = 1


class BreakingChannel(Channel):
    """Breaks in the middle of what this side says at a point; everything before it has gone."""

    def __init__(self, channel: Channel, point: Point, kind: str) -> None:
        self.__dict__ = channel.__dict__
        self.point = point
        self.kind = kind
        self.left = point.number
        self.saying = STREAM
        self.silent = False

    def send(self, message: Any) -> None:
        self.saying = type(message).__name__
        try:
            super().send(message)
        finally:
            self.saying = STREAM

    def write(self, data: Any) -> None:
        if self.silent:
            return
        meant = self.point.said in (self.saying, ANYTHING)
        self.left -= meant
        if self.left or not meant:
            super().write(data)
            return
        super().write(memoryview(data)[: len(data) // 2])
        if self.kind == "stall":
            self.silent = True  # the connection stays open, and nothing comes any more
            return
        if self.kind == "reset":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._socket.close()
            raise LinkError("the connection was reset")
        self.interrupt()
        raise LinkError("the connection was cut")


@contextlib.contextmanager
def broken(monkeypatch: pytest.MonkeyPatch, side: str, point: Point, kind: str) -> Iterator[None]:
    """One side's first connection breaks."""
    fresh = iter([True])
    accept = Acceptor.accept

    def breaking(channel: Channel | None) -> Channel | None:
        return (
            BreakingChannel(channel, point, kind) if channel is not None and next(fresh, False) else channel
        )

    with monkeypatch.context() as patch:
        if side == "source":
            patch.setattr(source_module, "connect", lambda *args: breaking(connect(*args)))
        else:
            patch.setattr(
                destination_module.Acceptor, "accept", lambda self, timeout: breaking(accept(self, timeout))
            )
        yield
