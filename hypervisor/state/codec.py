"""The page codec in use: ``hypervisor.ext.pages``, or its readable twin under ``HV_PURE=1``.

Everything above imports from here and does not care which one it got.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypervisor._source import pure

if TYPE_CHECKING or not pure():
    from hypervisor.ext.pages import (
        IMPLEMENTATION,
        PAGE_SIZE,
        Contents,
        Encoded,
        Encoder,
        bound,
        classify,
        crc32c,
        decode,
        inspect,
        page_hashes,
    )
else:
    from hypervisor.state.pages import (
        IMPLEMENTATION,
        PAGE_SIZE,
        Contents,
        Encoded,
        Encoder,
        bound,
        classify,
        crc32c,
        decode,
        inspect,
        page_hashes,
    )

__all__ = [
    "IMPLEMENTATION",
    "PAGE_SIZE",
    "Contents",
    "Encoded",
    "Encoder",
    "bound",
    "classify",
    "crc32c",
    "decode",
    "inspect",
    "page_hashes",
]
