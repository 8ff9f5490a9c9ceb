"""`hv certificates`: a CA of one's own, and a certificate for each end of a migration."""

from __future__ import annotations

import argparse
from pathlib import Path

from hypervisor.cli.command import Command, Option
from hypervisor.migration.certificates import make_directory


def run(options: argparse.Namespace) -> int:
    """Make them, and say which."""
    for path in make_directory(options.directory, options.host):
        print(path)
    return 0


COMMAND = Command(
    name="certificates",
    summary="make certificates for migrations over TLS",
    run=run,
    options=(
        Option(
            ("directory",),
            "where to put them; a CA that is there is used again",
            Path,
            Path("tls"),
            metavar="DIR",
        ),
        Option(("--host",), "a name or an address by which sources call the destination", str, repeat=True),
    ),
    examples=("hv certificates certificates --host vm2.example.org --host 192.0.2.7",),
    text=(
        "Copy the directory, without ca-key.pem, to each host whose monitors may exchange guests, and name it\n"
        "there with `hv run --tls-dir`. They are good for a year."
    ),
)
