"""Guest images that come with the hypervisor, so that nobody needs a compiler for x86 to begin.

The build copies them here from ``guests/build``; in a source tree they are absent until then.
"""

from __future__ import annotations

from pathlib import Path

from hypervisor.errors import ImageError

_DIRECTORY = Path(__file__).parent
_SUFFIXES = (".elf", ".bin")


def names() -> list[str]:
    """The names of the images that are here, for example ``["tern"]``."""
    return sorted(path.stem for path in _DIRECTORY.iterdir() if path.suffix in _SUFFIXES)


def find(image: str) -> Path:
    """The file that ``image`` means: a path, or the name of an image that comes with the hypervisor.

    A file in the current directory wins over a shipped image of the same name.

    Raises:
        ImageError: there is neither.
    """
    path = Path(image)
    if path.is_file():
        return path
    for suffix in _SUFFIXES:
        shipped = _DIRECTORY / (image + suffix)
        if "/" not in image and shipped.is_file():
            return shipped
    if path.exists():
        raise ImageError(f"{image}: not a regular file")
    known = ", ".join(names()) or "none (run `make guests`)"
    raise ImageError(f"{image}: no such file, and no shipped image of that name; shipped: {known}")
