"""Whatever is wrong with a link is one clear line, and nothing waits for ever."""

from __future__ import annotations

import socket
import struct
import threading

import pytest

from hypervisor.errors import HostError, MigrationError, UsageError
from hypervisor.migration import channel as channels
from hypervisor.migration.address import Address, parse_address
from hypervisor.migration.channel import (
    MESSAGE_MAX,
    Acceptor,
    Channel,
    LinkError,
    RefusedError,
    Timeouts,
    connect,
)
from hypervisor.migration.credentials import Credentials
from hypervisor.migration.protocol import Ack, Hello, Ready, Refused, Welcome
from hypervisor.state.codec import crc32c

HASTY = Timeouts(connect=0.2, message=0.2, settle=0.2)


@pytest.fixture
def pair():
    """A channel, and the bare socket at its other end."""
    ours, theirs = socket.socketpair()
    # TCP options do not fit a Unix socket: a real connection is as easy.
    ours.close()
    theirs.close()
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with theirs, Channel(ours, HASTY) as channel:
        yield channel, theirs


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp:127.0.0.1:4444", Address("127.0.0.1", 4444)),
        ("tcp::0", Address("127.0.0.1", 0)),
        ("tcp:[::1]:1", Address("::1", 1)),
        ("tcp:some.host:65535", Address("some.host", 65535)),
        ("tls:[fe80::1]:7", Address("fe80::1", 7, "tls")),
        ("unix:/run/guests/a:b", Address("/run/guests/a:b", 0, "unix")),
    ],
)
def test_an_address_is_read_and_written_alike(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "tcp", "tcp:", "tcp:1", "tcp:h:", "tcp:h:x", "tcp:h:65536", "tcp:h:-1", "tcp:h:²", "udp:h:1", "h:1"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="tcp:HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize("text", ["unix:", "unix:" + 108 * "x", "unix:a\0b"])
def test_what_is_no_name_of_a_socket_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="1 to 107 bytes"):
        parse_address(text)


def test_only_what_other_hosts_cannot_reach_is_local() -> None:
    assert all(Address(host, 1).local for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
    assert not any(Address(host, 1).local for host in ("0.0.0.0", "::", "10.0.0.1", "host.example"))
    assert Address("/tmp/x", kind="unix").local


def test_a_port_in_use_is_one_clear_line() -> None:
    acceptor = Acceptor("tcp::0", HASTY)
    try:
        with pytest.raises(
            HostError, match=rf"^tcp:127\.0\.0\.1:{acceptor.address.port}: the port is in use$"
        ):
            Acceptor(acceptor.address, HASTY)
    finally:
        acceptor.close()


def test_a_host_that_is_not_ours_is_one_clear_line() -> None:
    with pytest.raises(HostError, match=r"^tcp:192\.0\.2\.1:0: cannot listen: "):  # RFC 5737
        Acceptor("tcp:192.0.2.1:0", HASTY, Credentials(insecure=True))


def test_nobody_listening_is_one_clear_line() -> None:
    acceptor = Acceptor("tcp::0", HASTY)
    acceptor.close()
    with pytest.raises(LinkError, match=r"nobody listens there \(connection refused\)$"):
        connect(acceptor.address, HASTY)


def test_a_message_arrives_as_it_was_sent(pair) -> None:
    channel, theirs = pair
    with Channel(theirs.dup(), HASTY) as other:
        for message in (Welcome(1), Ready(), Hello(1, "0" * 32, 5, "f" * 32)):
            channel.send(message)
            assert other.receive(type(message)) == message


def test_a_peer_that_says_no_is_quoted(pair) -> None:
    channel, theirs = pair
    with Channel(theirs.dup(), HASTY) as other:
        other.send(Refused("the moon is full"))
        with pytest.raises(RefusedError, match=r"^the moon is full$"):
            channel.receive(Ready)


def test_a_silent_peer_is_noticed(pair) -> None:
    channel, _ = pair
    with pytest.raises(LinkError, match="silent for too long"):
        channel.receive(Ready)


def test_a_peer_that_dribbles_is_noticed(pair) -> None:
    """The limit is for the whole message, not for each byte of it."""
    channel, theirs = pair
    stop = threading.Event()

    def dribble() -> None:
        theirs.sendall(struct.pack("<II", 60000, 0))
        while not stop.wait(0.02):
            try:
                theirs.sendall(b"x")
            except OSError:
                return

    thread = threading.Thread(target=dribble)
    thread.start()
    with pytest.raises(LinkError, match="silent for too long"):
        channel.receive(Ready)
    stop.set()
    thread.join()


def test_a_peer_that_takes_nothing_is_noticed(pair) -> None:
    channel, _ = pair
    with pytest.raises(LinkError, match="silent for too long"):
        channel.write(bytes(64 << 20))


def test_a_peer_that_is_gone_is_noticed(pair) -> None:
    channel, theirs = pair
    theirs.close()
    with pytest.raises(LinkError, match="the peer closed the connection"):
        channel.receive(Ready)
    with pytest.raises(LinkError, match="the peer closed the connection"):
        channel.write(bytes(64 << 20))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "does not speak the migration protocol"),
        (struct.pack("<II", MESSAGE_MAX + 1, 0), "does not speak the migration protocol"),
        (struct.pack("<II", 3, 0) + b"abc", "altered on its way"),
        (struct.pack("<II", 3, crc32c(b"abc")) + b"abc", "is no message"),
        (struct.pack("<II", 0, 0), "is no message"),
        (struct.pack("<II", 5, crc32c(b"\xdd\xff\xff\xff\xff")) + b"\xdd\xff\xff\xff\xff", "is no message"),
        (struct.pack("<II", 60000, crc32c(b"\x91" * 60000)) + b"\x91" * 60000, "is no message"),
    ],
)
def test_what_is_no_message_is_refused(pair, raw: bytes, reason: str) -> None:
    channel, theirs = pair
    theirs.sendall(raw)
    with pytest.raises(LinkError, match=reason):
        channel.receive(Ready)


def test_another_message_than_expected_is_an_error(pair) -> None:
    channel, theirs = pair
    with Channel(theirs.dup(), HASTY) as other:
        other.send(Ready())
    with pytest.raises(LinkError, match="Ready where Ack was to come"):
        channel.receive(Ack)


def test_a_refusal_reaches_a_peer_that_is_still_sending(pair) -> None:
    """Closing with unread data would reset the connection and lose the reason."""
    channel, theirs = pair
    with Channel(theirs.dup(), Timeouts(message=5.0)) as other:
        other.write(bytes(1 << 16))
        refusing = threading.Thread(target=lambda: (channel.refuse(Refused("no room")), channel.close()))
        refusing.start()
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(RefusedError, match="no room"):
            other.receive(Ready)
        refusing.join()


def test_waiting_for_a_connection_ends(monkeypatch) -> None:
    acceptor = Acceptor("tcp::0", HASTY)
    assert acceptor.accept(0.01) is None
    acceptor.wake()
    assert acceptor.accept(None) is None
    acceptor.close()


def test_errors_of_a_link_are_migration_errors() -> None:
    assert issubclass(LinkError, MigrationError)
    assert issubclass(RefusedError, MigrationError)
    assert channels.PATIENCE.message > 0
