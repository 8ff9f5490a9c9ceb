"""Where a monitor listens: ``tcp:HOST:PORT``, ``tls:HOST:PORT`` or ``unix:PATH``."""

from __future__ import annotations

import ipaddress
from typing import Final, Literal, NamedTuple

from hypervisor.errors import UsageError

LOOPBACK: Final = "127.0.0.1"
ADDRESSES: Final = "tcp:HOST:PORT, tls:HOST:PORT or unix:PATH"
_LONGEST_PATH: Final = 107
"""Bytes; sockaddr_un has no room for more (unix(7))."""


class Address(NamedTuple):
    """Where a monitor listens."""

    host: str
    """Of ``unix``: the path of the socket."""
    port: int = 0
    kind: Literal["tcp", "tls", "unix"] = "tcp"

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}:{host}:{self.port}"

    @property
    def local(self) -> bool:
        """Can only this host reach it?"""
        try:
            return self.kind == "unix" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_address(text: str | Address) -> Address:
    """An empty host is the loopback interface, an IPv6 address stands in brackets.

    >>> str(parse_address("tcp::4444"))
    'tcp:127.0.0.1:4444'
    >>> parse_address("tls:[::1]:4444").host
    '::1'

    Raises:
        UsageError: it is not an address.
    """
    if isinstance(text, Address):
        return text
    kind, _, rest = text.partition(":")
    if kind == "unix":
        if not rest or "\0" in rest or len(rest.encode()) > _LONGEST_PATH:
            raise UsageError(f"{text}: a socket's path has 1 to {_LONGEST_PATH} bytes")
        return Address(rest, 0, "unix")
    host, separator, port = rest.rpartition(":")
    if (
        kind not in ("tcp", "tls")
        or not separator
        or not (port.isascii() and port.isdecimal())
        or int(port) > 0xFFFF
    ):
        raise UsageError(f"{text}: not an address; it looks like {ADDRESSES}")
    return Address(host.strip("[]") or LOOPBACK, int(port), "tls" if kind == "tls" else "tcp")
