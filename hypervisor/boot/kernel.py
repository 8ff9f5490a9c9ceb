"""A kernel and what is loaded with it, whichever boot protocol it wants."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hypervisor import images
from hypervisor.boot import linux
from hypervisor.boot.entry import Entry
from hypervisor.boot.multiboot import Loader, read_image
from hypervisor.errors import UsageError

Module = str | Path | tuple[str | Path, str]
"""A file, or one and a command line."""


@dataclass(frozen=True)
class Kernel:
    """Read and checked, and in no machine's memory yet."""

    name: str
    image: bytes
    append: str
    """Its command line."""
    modules: list[tuple[str, bytes]]
    """Of a Multiboot kernel: command lines and contents."""
    initrd: bytes
    """Of Linux: the initial RAM disk, or nothing."""

    @classmethod
    def read(
        cls, image: str | Path, append: str, modules: Iterable[Module], initrd: str | Path | None
    ) -> Kernel:
        """All files that are wanted: see ``VirtualMachine.boot``. Raises ImageError, HostError or UsageError."""
        path = images.find(str(image))
        data = read_image(path)
        modules = list(modules)
        if linux.is_kernel(data) and modules:
            raise UsageError(f"{path.name}: a Linux kernel takes no modules but an initial RAM disk")
        if initrd is not None and not linux.is_kernel(data):
            raise UsageError(f"{path.name}: only a Linux kernel takes an initial RAM disk")
        ramdisk = b"" if initrd is None else read_image(Path(initrd))
        return cls(path.name, data, append, [_read_module(module) for module in modules], ramdisk)

    def load(self, ram: memoryview, regions: list[tuple[int, int]]) -> Entry:
        """Put it into memory; ``regions`` are what of it is RAM. Raises ImageError."""
        if linux.is_kernel(self.image):
            return linux.load(ram, self.name, self.image, self.append, self.initrd)
        return Loader(ram, regions).load(self.name, self.image, self.append, self.modules)


def _read_module(module: Module) -> tuple[str, bytes]:
    file, words = module if isinstance(module, tuple) else (module, "")
    path = Path(file)
    return f"{path.name} {words}".strip(), read_image(path)
