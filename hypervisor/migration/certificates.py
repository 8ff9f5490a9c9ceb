"""Making certificates, with the ``openssl`` program: Python can check them, but not make any."""

from __future__ import annotations

import ipaddress
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hypervisor.errors import HostError

DAYS: Final = 365
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")


def make_certificate(
    certificate: Path,
    key: Path,
    name: str,
    *,
    hosts: Sequence[str] = (),
    authority: tuple[Path, Path] | None = None,
) -> None:
    """Make an EC key (P-256) and a certificate for it, valid for a year.

    ``hosts`` are the names and addresses that it is good for, ``authority`` the CA's certificate and key; without,
    it is signed by itself. Raises HostError.
    """
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", str(DAYS), "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate)]
    if authority is not None:
        command += ["-CA", str(authority[0]), "-CAkey", str(authority[1])]
        command += ["-addext", "basicConstraints=critical,CA:FALSE"]
    if hosts:
        command += ["-addext", "subjectAltName=" + ",".join(_alternative(host) for host in hosts)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - as said above
    except OSError as error:
        raise HostError(f"openssl, which makes certificates: {error.strerror}") from None
    if done.returncode:
        raise HostError(f"openssl made no certificate: {(done.stderr.strip() or '?').splitlines()[-1]}")
    key.chmod(0o600)


def make_directory(directory: Path, hosts: Sequence[str]) -> list[Path]:
    """All files for both sides, as ``Credentials`` wants them; ``hosts`` are where guests arrive.

    A CA that is there already is used again. Returns what was made. Raises HostError.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        old_mask = os.umask(0o077)
    except OSError as error:
        raise HostError(f"{directory}: {error.strerror}") from None
    try:
        authority = directory / "ca-cert.pem", directory / "ca-key.pem"
        made: list[Path] = []
        if not all(path.exists() for path in authority):
            make_certificate(*authority, "hypervisor CA")
            made += authority
        for side, names in (("server", (*LOOPBACK_NAMES, *hosts)), ("client", ())):
            paths = directory / f"{side}-cert.pem", directory / f"{side}-key.pem"
            make_certificate(*paths, f"hypervisor {side}", hosts=names, authority=authority)
            made += paths
        return made
    finally:
        os.umask(old_mask)


def _alternative(host: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"
