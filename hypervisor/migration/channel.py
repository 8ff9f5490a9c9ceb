"""A link between two monitors: connections with time limits, framed messages.

A message is an 8-byte frame header (``u32`` length, ``u32`` CRC-32C of the payload, little-endian)
and msgpack. A length is believed up to ``MESSAGE_MAX``. Between messages the checked stream travels
as it is; it knows where it ends and has its own checksums.

Nothing here waits for ever: each operation has a time limit, and what goes wrong with a link is a
:class:`LinkError` of one line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import selectors
import socket
import ssl
import stat
import struct
import time
from typing import Any, Final, NamedTuple, Never, Self, TypeVar, overload

import msgspec

from hypervisor.errors import HostError, MigrationError, printable
from hypervisor.migration.address import Address, parse_address
from hypervisor.migration.credentials import NO_CREDENTIALS, Credentials, Security
from hypervisor.migration.protocol import Message, Refused
from hypervisor.migration.replication.messages import ReplicationMessage
from hypervisor.state.codec import crc32c
from hypervisor.state.sections import Readable

MESSAGE_MAX: Final = 64 << 10
_BACKLOG: Final = 8
_AHEAD: Final = 16 << 10

_FRAME = struct.Struct("<II")
_ENCODER = msgspec.msgpack.Encoder()
AnyMessage = Message | ReplicationMessage
_DECODER = msgspec.msgpack.Decoder(AnyMessage)

A = TypeVar("A", bound=AnyMessage)
B = TypeVar("B", bound=AnyMessage)


class LinkError(MigrationError):
    """The peer is gone, silent, or does not speak this protocol."""


class RefusedError(MigrationError):
    """The peer said no, and why."""


class Timeouts(NamedTuple):
    """How long to wait, in seconds."""

    connect: float = 10.0
    """For a connection."""
    message: float = 30.0
    """For the peer's next message, and for any progress in sending."""
    settle: float = 5.0
    """A source whose link broke in the handover tries to reconnect for this long before it says so."""


PATIENCE: Final = Timeouts()


class Channel:
    """One connection to another monitor.

    ``security`` makes it private; ``host`` is then whom we called, None if we were called.
    """

    def __init__(
        self,
        connection: socket.socket,
        timeouts: Timeouts,
        security: Security | None = None,
        host: str | None = None,
    ) -> None:
        self._socket = connection
        self._timeouts = timeouts
        self._security = security
        self._host = host
        self._ahead = memoryview(bytearray(_AHEAD))
        self._waiting = self._ahead[:0]
        """What was received ahead: many small reads are one system call so."""
        self.sent = 0
        """Bytes sent."""
        self.received = 0
        """Bytes received."""
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # messages are small and awaited
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def secure(self, timeout: float) -> None:
        """Before anything else: make sure who the peer is, where the address asks for it.

        Raises:
            LinkError: that failed, or took longer than ``timeout`` seconds.
            MigrationError: it is somebody else.
        """
        security, self._security = self._security, None
        if security is not None:
            try:
                self._socket = security.wrap(self._socket, self._host, time.monotonic() + timeout)
            except OSError as error:
                raise LinkError(self._reason(error)) from None

    @property
    def patience(self) -> float:
        """Seconds to wait for the peer's next message, and for any progress in sending."""
        return self._timeouts.message

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._timeouts = self._timeouts._replace(message=seconds)

    def close(self) -> None:
        """Let the peer know that nothing more comes. May be called twice."""
        self._socket.close()

    def interrupt(self) -> None:
        """Make whatever another thread does with this channel fail."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def write(self, data: Readable) -> None:
        """Send all of ``data``; it may be changed when this returns.

        Raises:
            LinkError: the peer is gone, or took nothing for too long.
        """
        view = memoryview(data)
        try:
            self._socket.settimeout(self._timeouts.message)
            while view:
                count = self._socket.send(view)
                self.sent += count
                view = view[count:]
        except OSError as error:
            raise LinkError(self._reason(error)) from None

    def readinto(self, view: memoryview) -> int:
        """Receive some bytes; never 0: the end of the connection is an error like any other."""
        return self._read(view, time.monotonic() + self._timeouts.message)

    def ready(self, timeout: float, waker: socket.socket | None = None) -> bool:
        """Has the peer sent something? Waits for it so many seconds, or until ``waker`` is readable."""
        if self._waiting or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            return True
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        if waker is not None:
            waiting.register(waker, select.POLLIN)
        here = self._socket.fileno()
        return any(descriptor == here for descriptor, _ in waiting.poll(timeout * 1000))

    def send(self, message: AnyMessage) -> None:
        """Send a message."""
        payload = _ENCODER.encode(message)
        self.write(_FRAME.pack(len(payload), crc32c(payload)) + payload)

    @overload
    def receive(self, kind: type[A], /, *, timeout: float | None = None) -> A: ...
    @overload
    def receive(self, kind: type[A], other: type[B], /, *, timeout: float | None = None) -> A | B: ...
    @overload
    def receive(self, *, timeout: float | None = None) -> Never: ...
    @overload
    def receive(self, *kinds: type[AnyMessage], timeout: float | None = None) -> AnyMessage: ...
    def receive(self, *kinds: type[Any], timeout: float | None = None) -> Any:
        """The next message, which must be one of ``kinds``, within ``timeout`` seconds as a whole.

        Raises:
            LinkError: the peer is gone or silent, or sent something else.
            RefusedError: the peer sent ``Refused``.
        """
        message = self._next_message(self._timeouts.message if timeout is None else timeout)
        if isinstance(message, kinds):
            return message
        if isinstance(message, Refused):
            raise RefusedError(printable(message.reason))
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise LinkError(f"the peer sent {type(message).__name__} where {expected} was to come")

    def _next_message(self, timeout: float) -> Message:
        deadline = time.monotonic() + timeout
        length, checksum = _FRAME.unpack(self._take(_FRAME.size, deadline))
        if length > MESSAGE_MAX:
            raise LinkError("the peer does not speak the migration protocol of this hypervisor")
        payload = self._take(length, deadline)
        if crc32c(payload) != checksum:
            raise LinkError("a message was altered on its way")
        try:
            message: Message = _DECODER.decode(payload)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise LinkError(f"the peer sent something that is no message ({printable(str(error))})") from None
        return message

    def refuse(self, reason: Refused) -> None:
        """Say why this is the end, if anybody still listens."""
        with contextlib.suppress(LinkError, OSError):
            self.send(reason)
            self._socket.shutdown(socket.SHUT_WR)
            # Closing with unread data would reset the connection, and the reason with it (RFC 1122,
            # 4.2.2.13): throw away what is under way, but not for long.
            scrap = memoryview(bytearray(1 << 16))
            deadline = time.monotonic() + min(1.0, self._timeouts.message)
            while time.monotonic() < deadline:
                self._receive(scrap, deadline)

    def last_words(self) -> str | None:
        """After a failed ``write``: the reason, if the peer gave one before it closed."""
        with contextlib.suppress(LinkError):
            while True:
                # What it said before that was said too early to matter any more.
                message = self._next_message(min(0.5, self._timeouts.message))
                if isinstance(message, Refused):
                    return printable(message.reason)
        return None

    def _take(self, length: int, deadline: float) -> bytes:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            view = view[self._read(view, deadline) :]
        return bytes(data)

    def _read(self, view: memoryview, deadline: float) -> int:
        if not self._waiting:
            if len(view) >= _AHEAD:
                return self._receive(view, deadline)
            self._waiting = self._ahead[: self._receive(self._ahead, deadline)]
        count = min(len(view), len(self._waiting))
        view[:count] = self._waiting[:count]
        self._waiting = self._waiting[count:]
        return count

    def _receive(self, view: memoryview, deadline: float) -> int:
        try:
            # A timeout of 0 would mean non-blocking.
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-4))
            count = self._socket.recv_into(view)
        except OSError as error:
            raise LinkError(self._reason(error)) from None
        if not count:
            raise LinkError("the peer closed the connection")
        self.received += count
        return count

    def _reason(self, error: OSError) -> str:
        if isinstance(error, TimeoutError):
            return "the peer was silent for too long"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the peer's certificate is no good: {error.verify_message}"
        if isinstance(error, ConnectionError | ssl.SSLEOFError):
            return "the peer closed the connection"
        if isinstance(error, ssl.SSLError):
            return f"TLS failed: {(error.reason or str(error)).replace('_', ' ').lower()}"
        return f"the connection failed: {error.strerror or error}"


def connect(address: str | Address, timeouts: Timeouts, credentials: Credentials = NO_CREDENTIALS) -> Channel:
    """Connect to a monitor that listens.

    Raises:
        UsageError: the address is open to others, and ``credentials`` do not say how to protect the guest.
        LinkError: nobody listens there, or nobody answers.
        MigrationError: it is somebody else who answers.
    """
    target = parse_address(address)
    credentials.check(target)
    security = credentials.client() if target.kind == "tls" else None
    try:
        connection = _dial(target, timeouts.connect)
    except (ConnectionRefusedError, FileNotFoundError):
        raise LinkError(f"{target}: nobody listens there (connection refused)") from None
    except TimeoutError:
        raise LinkError(f"{target}: no answer within {timeouts.connect:g} s") from None
    except OSError as error:
        raise LinkError(f"{target}: cannot connect: {error.strerror or error}") from None
    channel = Channel(connection, timeouts, security, target.host)
    try:
        channel.secure(timeouts.connect)
    except BaseException:
        channel.close()
        raise
    return channel


def _dial(target: Address, timeout: float) -> socket.socket:
    if target.kind != "unix":
        # Bytes: a name in ASCII need not go through Python's IDNA codec, which takes a ms to load.
        host = target.host.encode() if target.host.isascii() else target.host
        where: tuple[Any, int] = (host, target.port)
        return socket.create_connection(where, timeout=timeout)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(target.host)
    except BaseException:
        connection.close()
        raise
    return connection


class Acceptor:
    """A socket that listens. ``address`` has the real port when 0 was asked for."""

    def __init__(
        self, address: str | Address, timeouts: Timeouts, credentials: Credentials = NO_CREDENTIALS
    ) -> None:
        target = parse_address(address)
        credentials.check(target)
        self._timeouts = timeouts
        self._security = credentials.server() if target.kind == "tls" else None
        try:
            self._socket = _listen_unix(target.host) if target.kind == "unix" else _listen_tcp(target)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                what = "socket" if target.kind == "unix" else "port"
                raise HostError(f"{target}: the {what} is in use") from None
            raise HostError(f"{target}: cannot listen: {error.strerror or error}") from None
        if target.kind != "unix":
            target = target._replace(port=self._socket.getsockname()[1])
        self.address = target
        self._waker, self._wakened = socket.socketpair()
        self._socket.setblocking(False)

    def accept(self, timeout: float | None) -> Channel | None:
        """The next connection, still to be made ``secure``; None after ``timeout`` seconds (None: no limit) or
        a ``wake``.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._wakened, selectors.EVENT_READ)
            ready = {key.fileobj for key, _ in selector.select(timeout)}
        if self._wakened in ready:
            self._wakened.recv(1)
            return None
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionError):
            return None  # it went away again before we looked
        except OSError as error:
            time.sleep(0.1)  # no descriptor is free, for example: it stays in the queue
            raise HostError(f"{self.address}: cannot accept: {error.strerror or error}") from None
        return Channel(connection, self._timeouts, self._security)

    def wake(self) -> None:
        """Make an ``accept`` in another thread, or the next one here, return None."""
        self._waker.send(b"\0")

    def close(self) -> None:
        if self.address.kind == "unix" and self._socket.fileno() >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self.address.host)  # noqa: PTH108 - a socket's name may be relative to here
        for end in (self._socket, self._waker, self._wakened):
            end.close()


def _listen_tcp(target: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    return socket.create_server((target.host, target.port), family=family, backlog=_BACKLOG)


def _listen_unix(path: str) -> socket.socket:
    """A socket that only its owner may connect to. One left behind by a monitor that died is replaced."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode) and not _answers(path):  # noqa: PTH116
                os.unlink(path)  # noqa: PTH108
        listening.bind(path)
        os.chmod(path, 0o600)  # noqa: PTH101 - nobody can connect before the next line
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        return True
