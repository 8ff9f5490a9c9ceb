#!/usr/bin/env python3
"""mkarchive.py OUTPUT [PATH=FILE | PATH/ ...]: tern's initial archive, in the ustar format.

``PATH=FILE`` puts a file at a path, ``PATH/`` makes an empty directory. The result depends on the
files' contents and the order of the arguments only: no dates, no owners.
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path


def archive(members: list[str]) -> bytes:
    """The archive that the arguments describe."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for member in members:
            path, _, source = member.partition("=")
            entry = tarfile.TarInfo(path.rstrip("/"))
            if source:
                data = Path(source).read_bytes()
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
            else:
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
        end = tar.offset
    return output.getvalue()[:end] + bytes(1024)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(archive(sys.argv[2:]))
