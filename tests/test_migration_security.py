"""A guest travels protected or not at all, and only between monitors that know each other."""

from __future__ import annotations

import contextlib
import socket
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from owned_machine import Ledger, OwnedMachine, source_machine

from hypervisor.errors import HostError, MigrationError, UsageError
from hypervisor.migration import Address, Listener, SendError, Timeouts, send
from hypervisor.migration.certificates import make_certificate, make_directory
from hypervisor.migration.channel import Acceptor, Channel, connect
from hypervisor.migration.credentials import NO_CREDENTIALS, Credentials, read_token
from hypervisor.migration.protocol import Ready

TIMEOUTS = Timeouts(connect=20, message=20, settle=0)
TOKEN = Credentials(token=b"0123456789abcdef")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two authorities that know nothing of each other."""
    folder = tmp_path_factory.mktemp("tls")
    make_directory(folder / "ours", ["192.0.2.7", "vm.example.org"])
    make_directory(folder / "theirs", [])
    return folder


def ours(folder: Path) -> Credentials:
    return Credentials(folder / "ours")


@contextlib.contextmanager
def listening(address: str, credentials: Credentials) -> Iterator[tuple[Address, list[str]]]:
    """Answers Ready to everybody who is let in; what became of the others."""
    acceptor = Acceptor(address, TIMEOUTS, credentials)
    refused: list[str] = []

    def answer() -> None:
        while (channel := acceptor.accept(None)) is not None:
            with channel:
                try:
                    channel.secure(20)
                    channel.send(Ready())
                except MigrationError as error:
                    refused.append(str(error))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield acceptor.address, refused
    finally:
        acceptor.wake()
        thread.join()
        acceptor.close()


def call(address: Address, credentials: Credentials) -> Channel:
    channel = connect(address, TIMEOUTS, credentials)
    try:
        channel.receive(Ready)
    finally:
        channel.close()
    return channel


def kinds(folder: Path) -> dict[str, Credentials]:
    both = Credentials(folder / "ours", TOKEN.token)
    return {"tls:127.0.0.1:0 certificates": ours(folder), "tls::0 token": TOKEN, "tls::0 both": both}


@pytest.mark.parametrize("which", range(3))
def test_two_who_know_each_other_talk(folder: Path, which: int) -> None:
    name, credentials = list(kinds(folder).items())[which]
    with listening(name.split()[0], credentials) as (address, refused):
        assert address.port
        call(address, credentials)
        call(address, credentials)
    assert not refused


@pytest.mark.parametrize("way", ["tcp", "unix", "certificates", "token"])
def test_a_guest_arrives_by_every_way(folder: Path, tmp_path: Path, way: str) -> None:
    credentials = {"certificates": ours(folder), "token": TOKEN}.get(way, NO_CREDENTIALS)
    address = {"tcp": "tcp::0", "unix": f"unix:{tmp_path}/socket"}.get(way, "tls::0")
    ledger = Ledger()
    arrived: list[OwnedMachine] = []
    with Listener(address, timeouts=TIMEOUTS, credentials=credentials) as listener:
        # A stranger who does not speak TLS, or not our protocol, ends nothing.
        if not address.startswith("unix"):
            with socket.create_connection(listener.address[:2]) as stranger:
                stranger.sendall(b"GET / HTTP/1.0\r\n\r\n" * 100)
        thread = threading.Thread(
            target=lambda: arrived.append(
                listener.receive(lambda config: OwnedMachine(config, ledger, "there"), timeout=60)
            )
        )
        thread.start()
        source = source_machine(ledger)
        send(source, listener.address, timeouts=TIMEOUTS, credentials=credentials)
        thread.join()
    assert arrived[0].guest() == source.guest()
    assert ledger.owners == ["there"]


@pytest.mark.parametrize(
    "address", ["tcp:0.0.0.0:0", "tcp:[::]:0", "tcp:192.0.2.7:4444", "tcp:vm.example.org:1"]
)
def test_an_address_that_others_can_reach_takes_tls(address: str) -> None:
    for use in (lambda: Acceptor(address, TIMEOUTS), lambda: connect(address, TIMEOUTS)):
        with pytest.raises(UsageError) as caught:
            use()
        assert address.replace("tcp", "tls") in str(caught.value)
        assert "--insecure" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError):
        send(source_machine(Ledger()), address)


def test_unless_somebody_insists() -> None:
    insecure = Credentials(insecure=True)
    with listening("tcp:0.0.0.0:0", insecure) as (address, _):
        call(address._replace(host="127.0.0.1"), NO_CREDENTIALS)


def test_tls_needs_credentials() -> None:
    for use in (lambda: Acceptor("tls::0", TIMEOUTS), lambda: connect("tls::1", TIMEOUTS)):
        with pytest.raises(UsageError, match="needs --tls-dir or --token-file"):
            use()


REFUSALS: list[tuple[str, Callable[[Path], Credentials], Callable[[Path], Credentials], str]] = [
    ("source of another authority", ours, lambda f: Credentials(f / "theirs"), "certificate is no good"),
    ("destination of another authority", lambda f: Credentials(f / "theirs"), ours, "certificate is no good"),
    ("source without a certificate", ours, lambda f: TOKEN, "TLS failed|closed the connection"),
    ("source without the token", lambda f: TOKEN, lambda f: Credentials(token=b"x" * 16), "same token"),
    (
        "source with a certificate, but not the token",
        lambda f: Credentials(f / "ours", TOKEN.token),
        lambda f: Credentials(f / "ours", b"x" * 16),
        "same token",
    ),
]


@pytest.mark.parametrize(
    ("there", "here", "reason"), [row[1:] for row in REFUSALS], ids=[r[0] for r in REFUSALS]
)
def test_somebody_else_is_refused(folder: Path, there, here, reason: str) -> None:
    with listening("tls::0", there(folder)) as (address, refused):
        with pytest.raises(MigrationError, match=reason) as caught:
            call(address, here(folder))
        assert "\n" not in str(caught.value)
    assert len(refused) == 1
    assert "\n" not in refused[0]


def test_a_certificate_is_for_the_name_that_was_called(folder: Path, monkeypatch) -> None:
    with listening("tls::0", ours(folder)) as (address, _):
        monkeypatch.setattr(
            "hypervisor.migration.channel._dial",
            lambda target, timeout: socket.create_connection(address[:2], timeout),
        )
        for good in ("192.0.2.7", "vm.example.org"):
            call(address._replace(host=good), ours(folder))
        with pytest.raises(MigrationError, match=r"certificate is no good.*other.example.org"):
            call(address._replace(host="other.example.org"), ours(folder))


def test_somebody_in_the_middle_learns_nothing_and_is_noticed(tmp_path: Path) -> None:
    """They end TLS on both sides, with a certificate of their own, and pass everything on."""
    make_certificate(tmp_path / "cert", tmp_path / "key", "hypervisor")
    outside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    outside.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    inside = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    inside.check_hostname, inside.verify_mode = False, ssl.CERT_NONE
    passed = []

    def carry(one: ssl.SSLSocket, other: ssl.SSLSocket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(4096):
                passed.append(data)
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)

    with listening("tls::0", TOKEN) as (address, refused), socket.create_server(("127.0.0.1", 0)) as server:

        def meddle() -> None:
            victim = outside.wrap_socket(server.accept()[0], server_side=True)
            target = inside.wrap_socket(socket.create_connection(address[:2]))
            back = threading.Thread(target=carry, args=(target, victim))
            back.start()
            carry(victim, target)
            back.join()
            victim.close()
            target.close()

        thread = threading.Thread(target=meddle)
        thread.start()
        with pytest.raises(MigrationError, match="same token"):
            call(address._replace(port=server.getsockname()[1]), TOKEN)
        thread.join()
    assert refused == ["the peer does not have the same token"]
    assert TOKEN.token not in b"".join(passed)


def test_what_is_wrong_with_a_file_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"ca-cert.pem: No such file"):
        Acceptor("tls::0", TIMEOUTS, Credentials(tmp_path))
    (tmp_path / "ca-cert.pem").write_bytes((folder / "ours/ca-cert.pem").read_bytes())
    with pytest.raises(HostError, match=r"server-cert.pem: No such file"):
        Acceptor("tls::0", TIMEOUTS, Credentials(tmp_path))
    (tmp_path / "server-cert.pem").write_text("no certificate")
    (tmp_path / "server-key.pem").write_text("no key")
    with pytest.raises(HostError, match=r"pem: no certificate or key that fits"):
        Acceptor("tls::0", TIMEOUTS, Credentials(tmp_path))


def test_a_token_is_long_enough(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    assert read_token(path) == TOKEN.token
    for wrong in ("0123456789abcde\n", "x" * 5000):
        path.write_text(wrong)
        with pytest.raises(UsageError, match="16 to 4096 bytes"):
            read_token(path)
    with pytest.raises(HostError, match="No such file"):
        read_token(tmp_path / "nosuch")


def test_a_unix_socket_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening(f"unix:{path}", NO_CREDENTIALS) as (address, _):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        call(address, NO_CREDENTIALS)
        with pytest.raises(HostError, match=r"^unix:.*: the socket is in use$"):
            Acceptor(address, TIMEOUTS)
    assert not path.exists()
    with pytest.raises(MigrationError, match="nobody listens there"):
        call(address, NO_CREDENTIALS)


def test_a_unix_socket_that_a_dead_monitor_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with listening(f"unix:{path}", NO_CREDENTIALS) as (address, _):
        call(address, NO_CREDENTIALS)


def test_a_file_is_not_taken_for_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(HostError, match="in use"):
        Acceptor(f"unix:{path}", TIMEOUTS)
    assert path.read_text() == "data"


def test_a_guest_stays_with_a_source_that_is_not_trusted(folder: Path) -> None:
    ledger = Ledger()
    refusal = pytest.raises(SendError, match=r"failed in phase setup: .*; the guest is still here")
    with listening("tls::0", ours(folder)) as (address, _), refusal:
        send(source_machine(ledger), address, timeouts=TIMEOUTS, credentials=TOKEN)
    assert ledger.owners == ["source"]
