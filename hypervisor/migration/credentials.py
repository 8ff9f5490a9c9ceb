"""Who may send a guest here, and to whom one is sent: TLS, with certificates, a token, or both.

A guest's memory holds all its secrets, and whoever sends a guest has it run here. So an address that
other hosts can reach takes TLS and *mutual* authentication, in one of two ways:

* Certificates: a directory with the files that QEMU's ``tls-creds-x509`` wants, ``ca-cert.pem``,
  ``server-cert.pem`` and ``server-key.pem`` where guests arrive, ``client-cert.pem`` and ``client-key.pem``
  where they leave. Each side must show a certificate that the CA signed; the one of the destination must
  also be for the name under which it was called. ``hv certificates`` makes them.
* A token, a secret that both sides have. The destination makes itself a certificate, which proves nothing;
  then both prove by HMAC that they know the token. What they sign holds two fresh nonces, the side, and
  a hash of the certificate that each of them sees (tls-server-end-point, RFC 5929): somebody in the
  middle would show another certificate, and the proofs would not fit.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import ssl
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypervisor.errors import HostError, MigrationError, UsageError
from hypervisor.migration.address import Address
from hypervisor.migration.certificates import make_certificate

SHORTEST_TOKEN: Final = 16
"""Bytes; a shorter one could be guessed from what an impostor hears."""
LONGEST_TOKEN: Final = 4096
_NONCE: Final = 32
_PROOF: Final = 32
_CLIENT, _SERVER = b"source", b"destination"


@dataclass(frozen=True)
class Credentials:
    """What this side shows, and asks of the other.

    Attributes:
        directory: certificates and keys.
        token: the shared secret.
        insecure: let guests travel unprotected over a network.
    """

    directory: Path | None = None
    token: bytes | None = None
    insecure: bool = False

    def check(self, address: Address) -> None:
        """Raise UsageError if a guest would travel unprotected, or if what protects it is missing."""
        if address.kind == "tls":
            if self.directory is None and self.token is None:
                raise UsageError(f"{address}: TLS needs --tls-dir or --token-file, the same on both sides")
        elif not address.local and not self.insecure:
            safe = address._replace(kind="tls")
            raise UsageError(
                f"{address} is open to other hosts: use {safe} with --tls-dir or --token-file "
                "(or --insecure, if nobody else is on that network)"
            )

    def server(self) -> Security:
        """For the destination. Raises HostError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # no session is resumed, and nothing is to lie unread in the connection
        if self.directory is not None:
            certificate = self._use_directory(context, "server")
        else:
            with tempfile.TemporaryDirectory() as folder:
                paths = Path(folder, "cert.pem"), Path(folder, "key.pem")
                make_certificate(*paths, "hypervisor")
                certificate = _load(context, *paths)
        return Security(_hardened(context), self.token, certificate)

    def client(self) -> Security:
        """For the source. Raises HostError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.directory is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # what the token is for
        else:
            self._use_directory(context, "client")
        return Security(_hardened(context), self.token)

    def _use_directory(self, context: ssl.SSLContext, side: str) -> bytes:
        assert self.directory is not None
        authority = self.directory / "ca-cert.pem"
        try:
            context.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as error:
            raise HostError(f"{authority}: {_said(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
        return _load(context, self.directory / f"{side}-cert.pem", self.directory / f"{side}-key.pem")


NO_CREDENTIALS: Final = Credentials()


def read_token(path: Path) -> bytes:
    """The token in a file, without white space around it. Raises HostError or UsageError."""
    try:
        with path.open("rb") as file:
            token = file.read(LONGEST_TOKEN + 1).strip()
    except OSError as error:
        raise HostError(f"{path}: {error.strerror or error}") from None
    if not SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN:
        raise UsageError(f"{path}: a token has {SHORTEST_TOKEN} to {LONGEST_TOKEN} bytes")
    return token


class Security:
    """Turns a fresh TCP connection into one that is private, and whose other end is who it should be."""

    def __init__(
        self, context: ssl.SSLContext, token: bytes | None, certificate: bytes | None = None
    ) -> None:
        """``certificate`` is the destination's own, in DER; the source sees it in each connection."""
        self._context = context
        self._token = token
        self._certificate = certificate

    def wrap(self, connection: socket.socket, host: str | None, deadline: float) -> ssl.SSLSocket:
        """The connection under TLS; ``host`` is whom the source called, None at the destination.

        Raises:
            OSError: the handshake failed, or ``deadline`` (monotonic seconds) passed.
            MigrationError: the other side does not know the token.
        """
        connection.settimeout(max(deadline - time.monotonic(), 1e-4))
        wrapped = self._context.wrap_socket(connection, server_side=host is None, server_hostname=host)
        try:
            if self._token is not None:
                self._prove(wrapped, self._token, server=host is None, deadline=deadline)
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    def _prove(self, link: ssl.SSLSocket, token: bytes, *, server: bool, deadline: float) -> None:
        mine = secrets.token_bytes(_NONCE)
        link.sendall(mine)
        theirs = _read(link, _NONCE, deadline)
        nonces = theirs + mine if server else mine + theirs
        seen = self._certificate or link.getpeercert(binary_form=True) or b""
        binding = hashlib.sha256(seen).digest()

        def proof(side: bytes) -> bytes:
            return hmac.digest(token, b"hypervisor migration " + side + nonces + binding, "sha256")

        link.sendall(proof(_SERVER if server else _CLIENT))
        if not hmac.compare_digest(_read(link, _PROOF, deadline), proof(_CLIENT if server else _SERVER)):
            raise MigrationError("the peer does not have the same token")


def _hardened(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> bytes:
    """Use a certificate; returns it in DER."""
    try:
        context.load_cert_chain(certificate, key)
        begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
        text = certificate.read_text().partition(begin)[2].partition(end)[0]
        return ssl.PEM_cert_to_DER_cert(begin + text + end)
    except (OSError, ValueError) as error:
        where = key if certificate.is_file() else certificate
        raise HostError(f"{where}: {_said(error)}") from None


def _said(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"no certificate or key that fits ({error.reason or error})"
    return getattr(error, "strerror", None) or str(error)


def _read(link: ssl.SSLSocket, length: int, deadline: float) -> bytes:
    data = b""
    while len(data) < length:
        link.settimeout(max(deadline - time.monotonic(), 1e-4))
        part = link.recv(length - len(data))
        if not part:
            raise ConnectionError
        data += part
    return data
