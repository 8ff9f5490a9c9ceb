"""How fast RAM full of noise becomes a stream, and a stream RAM: beside memcpy, and beside a plain socket."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing

from hypervisor.bench import Record, compare, record
from hypervisor.machine import VirtualMachine
from hypervisor.migration.channel import PATIENCE, Channel
from hypervisor.state.codec import Encoder
from hypervisor.state.live import LiveReader, LiveWriter
from hypervisor.state.model import MachineState
from hypervisor.state.parts import Configuration
from hypervisor.state.sections import Readable

PIECE = 512 << 10
"""Bytes of the plain sender's calls: as many as a chunk of ours has."""
MB = 1e6


def throughput(quick: bool) -> Iterator[Record]:
    """Records in MB/s; the references are the ways without us."""
    size = (16 if quick else 128) << 20
    rounds = 1 if quick else 5
    ram = memoryview(bytearray(random.Random(1).randbytes(PIECE) * (size // PIECE)))  # noqa: S311
    spare = memoryview(bytearray(size))
    spare[:] = ram
    with VirtualMachine.boot("tern", memory=size) as vm:
        state = vm.capture()
    stream = bytearray()
    write(state, ram, stream.extend)

    def memcpy() -> None:
        spare[:] = ram

    def rate(work: Callable[[], object]) -> Callable[[], float]:
        def measured() -> float:
            began = time.perf_counter()
            work()
            return size / (time.perf_counter() - began) / MB

        return measured

    for name, work, reference, reference_name, target in (
        ("capture", lambda: write(state, ram, lambda data: None), memcpy, "memcpy", ">= 0.5"),
        ("restore", lambda: read(stream, spare), memcpy, "memcpy", ">= 0.5"),
        (
            "capture, send, receive and restore",
            lambda: ours(state, ram),
            lambda: plain(ram),
            "send",
            ">= 0.5",
        ),
    ):
        value, other = compare(rate(work), rate(reference), rounds=rounds)
        yield record(
            f"RAM of noise: {name}",
            value,
            "MB/s",
            reference=other,
            reference_name=reference_name,
            target=target,
        )


def write(state: MachineState, ram: memoryview, out: Callable[[Readable], object]) -> None:
    """A machine as a migration's stream, in one round."""
    writer = LiveWriter(out, Configuration(state.config, state.identity, state.epoch), Encoder(ram))
    everything = b"\1" * (len(ram) // 4096)
    at = 0
    while at < len(everything):
        at = writer.pages(everything, at).next
    writer.finish(state)


def read(stream: bytearray, ram: memoryview) -> None:
    left = memoryview(stream)

    def readinto(view: memoryview) -> int:
        nonlocal left
        count = len(view)
        view[:] = left[:count]
        left = left[count:]
        return count

    LiveReader(readinto).receive(ram)


def ours(state: MachineState, ram: memoryview) -> None:
    """Through a TCP connection to another process, which decodes all of it into memory of its own."""

    def receive(connection: socket.socket) -> None:
        with Channel(connection, PATIENCE) as channel:
            reader = LiveReader(channel.readinto)
            reader.receive(memoryview(bytearray(reader.head.config.memory)))

    with closing(_Peer(receive)) as peer:
        channel = Channel(peer.connection, PATIENCE)
        write(state, ram, channel.write)
        channel.close()


def plain(ram: memoryview) -> None:
    """The same bytes by `send` alone, into memory that the receiver keeps."""

    def receive(connection: socket.socket) -> None:
        target = memoryview(bytearray(len(ram)))
        at = 0
        while count := connection.recv_into(target[at : at + PIECE]):
            at += count

    with closing(_Peer(receive)) as peer:
        for at in range(0, len(ram), PIECE):
            peer.connection.sendall(ram[at : at + PIECE])
        peer.connection.close()


class _Peer:
    """A child process at the other end of a TCP connection; ``close`` waits until it is done."""

    def __init__(self, work: Callable[[socket.socket], None]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._child = os.fork()
            if self._child == 0:
                try:
                    work(server.accept()[0])
                finally:
                    os._exit(0)
            self.connection = socket.create_connection(server.getsockname())

    def close(self) -> None:
        self.connection.close()
        os.waitpid(self._child, 0)
