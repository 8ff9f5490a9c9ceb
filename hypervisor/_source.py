"""Which form of a module runs: the ``.py`` that students read, or what was compiled from it.

Hot modules are ordinary Python that also compiles as it stands (``HOT`` in setup.py). Both forms
then lie side by side, and Python by itself would always take the compiled one, even after the
source was edited. The finder here, asked before Python's own, decides with one rule:

    compiled forms are used if *all* of them were made from exactly the sources that are here, and
    ``HV_PURE`` is not set; otherwise every module runs from its source.

All or none, because compiled modules know the layout of each other's objects and Python does not see
every attribute of those: a compiled module beside an edited one would fail in ways that nobody could explain.
"Exactly" is by content: the build records the SHA-256 of each source in ``_compiled.json``. File
times would not do, because installing a wheel writes both files in the same moment, and changing
branches gives unchanged sources new times. Hashing the few hot modules takes a millisecond.

``hypervisor.ext`` is never concerned: it is C by nature and has no Python form.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

PURE = "HV_PURE"
"""Environment variable: anything but empty or ``0`` runs every module from its source."""

MANIFEST = Path(__file__).with_name("_compiled.json")
"""Written by setup.py: module name -> SHA-256 of the source its compiled form was made from."""


def pure() -> bool:
    """Does the environment ask for interpreted modules?"""
    return os.environ.get(PURE, "") not in ("", "0")


def digest(source: bytes) -> str:
    """The form in which the build records a source."""
    return hashlib.sha256(source).hexdigest()


class SourceFinder:
    """A meta path finder (Python reference, 5.3.1) for the modules of one package that have two forms.

    ``manifest`` lies in the package's directory and names modules in full.
    """

    def __init__(self, package: str, manifest: Path) -> None:
        self._prefix = package + "."
        self._never = f"{package}.ext."
        self._manifest = manifest
        self._compiled: frozenset[str] | None = None

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """The source's spec where the rule prefers it, else None: Python's own finders go on."""
        if not fullname.startswith(self._prefix) or fullname.startswith(self._never):
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin is None or not isinstance(spec.loader, ExtensionFileLoader):
            return None
        source = source_of(spec.origin)
        if not source.is_file():
            return None
        if self._compiled is None:
            self._compiled = self._usable()
        return None if fullname in self._compiled else spec_from_file_location(fullname, source)

    def _usable(self) -> frozenset[str]:
        """The modules whose compiled form may run: all that were recorded, or none."""
        if pure():
            return frozenset()
        try:
            recorded: dict[str, str] = json.loads(self._manifest.read_bytes())
        except (OSError, ValueError):
            return frozenset()  # nothing is known of the compiled forms, so none is trusted
        root = self._manifest.parent.parent
        for module, expected in sorted(recorded.items()):
            source = root.joinpath(*module.split(".")).with_suffix(".py")
            if source.is_file() and digest(source.read_bytes()) != expected:
                print(
                    f"hv: {module} was edited after it was compiled: running everything from source "
                    "(slower; `make build` compiles it again)",
                    file=sys.stderr,
                )
                return frozenset()
        return frozenset(recorded)


def source_of(extension: str) -> Path:
    """The ``.py`` beside a compiled module, whether or not it exists.

    >>> source_of("/x/decode.cpython-311-x86_64-linux-gnu.so").name
    'decode.py'
    """
    path = Path(extension)
    # The longest suffix that fits: every extension suffix ends in ".so", one of them is just that.
    suffix = max((s for s in EXTENSION_SUFFIXES if path.name.endswith(s)), key=len)
    return path.with_name(path.name[: -len(suffix)] + ".py")


def form_of(module: ModuleType) -> str:
    """``"compiled"`` or ``"source"``, for `hv info` and for tests."""
    loader = getattr(module.__spec__, "loader", None)
    return "compiled" if isinstance(loader, ExtensionFileLoader) else "source"


def install() -> None:
    """Put the finder first. Called once, by the package's ``__init__``; a second call changes nothing."""
    if not any(isinstance(finder, SourceFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, SourceFinder("hypervisor", MANIFEST))
