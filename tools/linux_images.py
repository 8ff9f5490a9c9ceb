"""Debian's own Linux for i386, with busybox as its user space: `make linux`.

    tools/linux_images.py DIRECTORY

takes the packages ``linux-image-686`` and ``busybox-static`` from the Debian mirror that this system is
configured for, checked by apt's own signatures, and leaves in DIRECTORY ``vmlinuz`` as it was packaged and
``initrd``, a compressed cpio archive with busybox and an /init that starts a shell on ttyS0. The system's
own package lists and architectures stay as they are: apt works in DIRECTORY/apt.
"""

from __future__ import annotations

import contextlib
import gzip
import subprocess
import sys
from pathlib import Path

INIT = b"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ PS1='linux# ' TERM=dumb
echo "Linux $(uname -r) on $(uname -m): up"
exec setsid sh -c 'exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'
"""
DIRECTORY_MODE, FILE_MODE, DEVICE_MODE = 0o040755, 0o100755, 0o020600


class Apt:
    """apt for another architecture, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        for name in ("lists/partial", "cache/archives/partial"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "status").touch()
        self.options = [
            f"-o{setting}"
            for setting in (
                "APT::Architecture=i386",
                "APT::Architectures=i386",
                "APT::Sandbox::User=",
                f"Dir::State::Lists={self.directory}/lists",
                f"Dir::State::status={self.directory}/status",
                f"Dir::Cache={self.directory}/cache",
            )
        ]

    def run(self, tool: str, *arguments: str) -> str:
        """What the tool prints. Raises CalledProcessError."""
        command = [tool, *self.options, "-q", *arguments]
        done = subprocess.run(command, cwd=self.directory, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout

    def unpack(self, package: str) -> Path:
        """Download a package and unpack it; returns the directory it is in."""
        self.run("apt-get", "download", package)
        (archive,) = self.directory.glob(f"{package}_*.deb")
        target = self.directory / package
        subprocess.run(["dpkg-deb", "-x", archive, target], check=True)
        archive.unlink()
        return target


def entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """A member of a cpio archive (Linux's Documentation/driver-api/early-userspace/buffer-format.rst)."""
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
    return header + bytes(-len(header) % 4) + data + bytes(-len(data) % 4)


def make_initrd(busybox: bytes) -> bytes:
    archive = b"".join(
        (
            entry("bin", DIRECTORY_MODE),
            entry("dev", DIRECTORY_MODE),
            entry("dev/console", DEVICE_MODE, device=(5, 1)),
            entry("bin/busybox", FILE_MODE, busybox),
            entry("init", FILE_MODE, INIT),
            entry("TRAILER!!!", 0),
        )
    )
    return gzip.compress(archive, mtime=0)


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    apt = Apt(directory / "apt")
    # One list may be out of step with its mirror; whether the packages can be had shows below.
    with contextlib.suppress(subprocess.CalledProcessError):
        apt.run("apt-get", "update")
    lines = apt.run("apt-cache", "depends", "linux-image-686").splitlines()
    (kernel,) = (line.split()[-1] for line in lines if "Depends: linux-image-" in line)
    (image,) = apt.unpack(kernel).glob("boot/vmlinuz-*")
    busybox = apt.unpack("busybox-static") / "bin/busybox"
    (directory / "initrd").write_bytes(make_initrd(busybox.read_bytes()))
    (directory / "vmlinuz").write_bytes(image.read_bytes())
    print(f"linux: {kernel}: {directory}/vmlinuz, {directory}/initrd")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (subprocess.CalledProcessError, ValueError) as error:
        sys.exit(f"linux_images.py: {error}")
