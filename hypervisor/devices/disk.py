"""A guest's disk: an image, and what the guest has changed.

Changes go into an *overlay* in memory, in clusters of 4 KiB, which is part of the machine's state: it
is saved, migrated and digested with the machine, and the image stays as it was. The state does not
hold the image itself but a digest of its contents; whoever restores the machine brings an image with
the same contents, and another one is refused.

The changes of a *persistent* disk go into the image. Its state is a digest of what the disk holds now, so
a saved machine can be resumed for as long as nobody has written to its disk; it cannot go back in time.

Two digests are meant to be cheap: that of an image is taken once, when it is first asked for, and that
of the contents looks again only at the chunks written since the last time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from hypervisor.devices.image import CHUNK, SECTOR, DiskFile, Image, as_disk
from hypervisor.devices.outlet import Written
from hypervisor.errors import HostError, StateError, UsageError
from hypervisor.state.model import CLUSTER, DiskConfig, DiskState

CLUSTER_SECTORS = CLUSTER // SECTOR
CHUNK_SECTORS = CHUNK // SECTOR
DISKS_MAX = 2

log = logging.getLogger("hypervisor.disk")


class Disk:
    """One disk of a machine, ``index`` counted from 0."""

    def __init__(self, index: int, file: DiskFile) -> None:
        self.index = index
        self.image = Image(file)
        self.persistent = file.persistent
        self.sectors = self.image.sectors
        self._clusters: dict[int, bytes] = {}
        """The overlay. Its values are never changed, only replaced, so that a state may share them."""
        self._hashes: dict[int, bytes] | None = None
        """Digests of the chunks that are not all zero; None: not looked at yet."""
        self._stale: set[int] = set()
        """Chunks written since their digests were taken."""
        self._base = ""
        """Digest of the image without the overlay, once it is known."""
        self._complained = False
        self._held_back = False
        """Do the changes of a persistent disk stay in the overlay for now?"""
        self._written: set[int] = set()
        """Clusters of the overlay written since they were last taken."""
        self._flush_wanted = False
        self._lock = threading.Lock()
        """Over the removal of clusters from the overlay, which another thread does than the one that writes."""

    @property
    def config(self) -> DiskConfig:
        return DiskConfig(self.image.path.name, self.sectors, self.persistent)

    # ------------------------------------------------------------------------------ for the drive

    def read(self, sector: int, count: int) -> bytes | None:
        """Sectors within the disk; None if the host could not read them."""
        try:
            return self._read(sector, count)
        except OSError as error:
            self._complain("reading", sector, error)
            return None

    def write(self, sector: int, data: bytes) -> bool:
        """Store whole sectors within the disk; False if the host could not."""
        count = len(data) // SECTOR
        self._stale.update(range(sector // CHUNK_SECTORS, (sector + count - 1) // CHUNK_SECTORS + 1))
        try:
            if self.persistent and not self._held_back:
                self.image.write(sector, data)
            else:
                self._overlay(sector, data)
        except OSError as error:
            self._complain("writing", sector, error)
            return False
        return True

    def flush(self) -> bool:
        """Bring all that was written to stable storage; False if the host could not."""
        if self._held_back:
            self._flush_wanted = True
        elif self.persistent:
            try:
                self.image.flush()
            except OSError as error:
                self._complain("flushing", 0, error)
                return False
        return True

    def _complain(self, doing: str, sector: int, error: OSError) -> None:
        """The guest sees an ATA error each time; who runs it gets one line."""
        if not self._complained:
            self._complained = True
            log.warning(
                "disk %s: %s sector %d failed: %s; the guest gets an error",
                self.image.path,
                doing,
                sector,
                error.strerror or error,
            )

    def _read(self, sector: int, count: int) -> bytes:
        clusters = self._clusters
        first, last = sector // CLUSTER_SECTORS, (sector + count - 1) // CLUSTER_SECTORS
        if not any(cluster in clusters for cluster in range(first, last + 1)):
            return self.image.read(sector, count)
        data = b"".join(self._cluster(cluster) for cluster in range(first, last + 1))
        start = (sector - first * CLUSTER_SECTORS) * SECTOR
        return data[start : start + count * SECTOR]

    def _cluster(self, cluster: int) -> bytes:
        """A whole cluster; past the end of the disk there are zeros."""
        data = self._clusters.get(cluster)
        if data is None:
            first = cluster * CLUSTER_SECTORS
            data = self.image.read(first, min(CLUSTER_SECTORS, self.sectors - first)).ljust(CLUSTER, b"\0")
        return data

    def _overlay(self, sector: int, data: bytes) -> None:
        while data:
            cluster, place = divmod(sector, CLUSTER_SECTORS)
            here = min(CLUSTER - place * SECTOR, len(data))
            if here == CLUSTER:
                whole = bytes(data[:here])
            else:
                changed = bytearray(self._cluster(cluster))
                changed[place * SECTOR : place * SECTOR + here] = data[:here]
                whole = bytes(changed)
            with self._lock:
                self._clusters[cluster] = whole
            self._written.add(cluster)
            data = data[here:]
            sector += here // SECTOR

    # ------------------------------------------------------------------------------ held back: see `outlet`

    def hold_back(self) -> None:
        """From now on, what is written to a persistent disk stays in the overlay until it may leave."""
        self._held_back = True

    def take_written(self) -> Written:
        """What was written into the overlay since the last time."""
        written = Written({n: self._clusters[n] for n in sorted(self._written)}, self._flush_wanted)
        self._written.clear()
        self._flush_wanted = False
        return written

    def let_out(self, written: Written) -> None:
        """Write that into the image of a persistent disk, also if some of it is there already; from any thread.

        Raises OSError.
        """
        if not self.persistent:
            return
        for cluster, data in written.clusters.items():
            first = cluster * CLUSTER_SECTORS
            self.image.write(first, data[: (self.sectors - first) * SECTOR])
        if written.flush:
            self.image.flush()
        for cluster, data in written.clusters.items():
            with self._lock:
                if self._clusters.get(cluster) is data:
                    del self._clusters[cluster]

    def let_go(self) -> None:
        """Write all that is held back, and hold nothing back any more. Raises OSError."""
        if self._held_back and self.persistent:
            self.let_out(Written(dict(self._clusters), self._flush_wanted))
            self._written.clear()
        self._held_back = self._flush_wanted = False

    def written_elsewhere(self, clusters: Iterable[int]) -> None:
        """The monitor that has the guest writes to these clusters of a persistent disk's image."""
        self._stale.update(cluster * CLUSTER_SECTORS // CHUNK_SECTORS for cluster in clusters)

    # ------------------------------------------------------------------------------ state

    def contents(self) -> str:
        """Digest of what the disk holds now, wherever it is kept. Raises HostError."""
        try:
            hashes = self._known_hashes()
            for chunk in self._stale:
                first = chunk * CHUNK_SECTORS
                self._note(hashes, chunk, self._read(first, min(CHUNK_SECTORS, self.sectors - first)))
        except OSError as error:
            raise HostError(f"disk {self.image.path}: {error.strerror or error}") from None
        self._stale.clear()
        return self._digest(hashes)

    def base(self) -> str:
        """Digest of what a state's changes are relative to: the image, or for a persistent disk, all."""
        if self.persistent:
            return self.contents()
        try:
            self._known_hashes()
            altered = self.image.altered
        except OSError as error:
            raise HostError(f"disk {self.image.path}: {error.strerror or error}") from None
        if altered:
            raise HostError(
                f"disk {self.image.path}: somebody changed the image while the machine was using it"
            )
        return self._base

    def look(self) -> None:
        """Take the digest of the image if that is not known yet, which takes as long as to read it.

        Also from another thread while the guest runs: what it writes meanwhile is looked at again. Then its
        state can be taken at once. Raises HostError.
        """
        try:
            self._known_hashes()
        except OSError as error:
            raise HostError(f"disk {self.image.path}: {error.strerror or error}") from None

    def _known_hashes(self) -> dict[int, bytes]:
        if self._hashes is None:
            hashes: dict[int, bytes] = {}
            for chunk in self.image.chunks():
                first = chunk * CHUNK_SECTORS
                count = min(CHUNK_SECTORS, self.sectors - first)
                self._note(hashes, chunk, self.image.read(first, count))
            if self._hashes is None:  # or another thread was faster, and knows more by now
                self._base = self._digest(hashes)
                self._hashes = hashes
        return self._hashes

    @staticmethod
    def _note(hashes: dict[int, bytes], chunk: int, data: bytes) -> None:
        if data.count(0) == len(data):
            hashes.pop(chunk, None)
        else:
            hashes[chunk] = hashlib.blake2b(data, digest_size=16).digest()

    def _digest(self, hashes: dict[int, bytes]) -> str:
        whole = hashlib.blake2b(self.sectors.to_bytes(8, "little"), digest_size=16)
        for chunk in sorted(hashes):
            whole.update(chunk.to_bytes(8, "little") + hashes[chunk])
        return whole.hexdigest()

    def state(self) -> DiskState:
        """The disk at rest, for as long as its image keeps its contents. Raises HostError."""
        return DiskState(self.base(), {} if self.persistent else dict(self._clusters))

    def check(self, state: DiskState) -> None:
        """Raises StateError if ``state`` does not fit this disk's image."""
        where = f"disk {self.index}"
        last = (self.sectors - 1) // CLUSTER_SECTORS
        for cluster, data in state.clusters.items():
            if not 0 <= cluster <= last or len(data) != CLUSTER:
                raise StateError(f"{where}: cluster {cluster} of {len(data)} bytes does not fit")
        if state.clusters and self.persistent:
            raise StateError(f"{where}: the state brings changes, a persistent disk has none")
        if state.base != self.base():
            said = "was written to since the state was taken" if self.persistent else "is another image"
            raise StateError(
                f"{where}: {self.image.path} does not hold what the guest's disk held: it {said}"
            )

    def load(self, state: DiskState) -> None:
        """Take over a state that was checked."""
        for cluster in (*self._clusters, *state.clusters):
            self._stale.add(cluster * CLUSTER_SECTORS // CHUNK_SECTORS)
        self._clusters = dict(state.clusters)


class Disks:
    """All disks of a machine, in the order of the drives."""

    def __init__(self, files: Iterable[DiskFile | Path | str]) -> None:
        """Opens the images; a string is ``FILE`` or ``FILE,persist``. Raises HostError or UsageError."""
        self.files = tuple(as_disk(file) for file in files)
        """What the user named."""
        self.list: list[Disk] = []
        if len(self.files) > DISKS_MAX:
            raise UsageError(f"{len(self.files)} disks: there is room for {DISKS_MAX}")
        try:
            for index, file in enumerate(self.files):
                self.list.append(Disk(index, file))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of all images."""
        for disk in self.list:
            disk.image.close()

    def hold(self) -> None:
        """This monitor owns the guest: nobody else may write its disks. Raises HostError."""
        for disk in self.list:
            disk.image.hold()

    def release(self) -> None:
        """Another monitor may own the guest now."""
        for disk in self.list:
            disk.image.release()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Let another machine of ours take the images; if it fails, take them back."""
        self.release()
        try:
            yield
        except BaseException:
            with contextlib.suppress(HostError):  # then ``run`` will say so
                self.hold()
            raise

    @property
    def config(self) -> tuple[DiskConfig, ...]:
        return tuple(disk.config for disk in self.list)

    def check_config(self, config: tuple[DiskConfig, ...]) -> None:
        """Raises StateError unless these can be the disks of a machine with this configuration."""
        if len(config) != len(self.list):
            raise StateError(
                f"the guest has {_count(len(config))}{_names(config)}, {len(self.list) or 'none'} given here: "
                "name the same images with --disk"
            )
        for disk, theirs in zip(self.list, config, strict=True):
            where, ours = f"disk {disk.index} ({theirs.name})", disk.config
            if theirs.sectors != ours.sectors:
                raise StateError(
                    f"{where} has {theirs.sectors} sectors, {disk.image.path} has {ours.sectors}"
                )
            if theirs.persistent != ours.persistent:
                needed = "with ,persist" if theirs.persistent else "without ,persist"
                raise StateError(f"{where} must be named {needed}, as when the guest was booted")

    def look(self) -> None:
        """Take the digests of all images that are not known yet: see ``Disk.look``."""
        for disk in self.list:
            disk.look()

    def states(self) -> tuple[DiskState, ...]:
        return tuple(disk.state() for disk in self.list)

    def check(self, states: tuple[DiskState, ...]) -> None:
        """Raises StateError unless all of them fit. Their number is that of the configuration."""
        if len(states) != len(self.list):
            raise StateError(f"the state is of {_count(len(states))}, this machine has {len(self.list)}")
        for disk, state in zip(self.list, states, strict=True):
            disk.check(state)

    def load(self, states: tuple[DiskState, ...]) -> None:
        """Take over states that were checked."""
        for disk, state in zip(self.list, states, strict=True):
            disk.load(state)


def _count(number: int) -> str:
    return "1 disk" if number == 1 else f"{number or 'no'} disks"


def _names(config: tuple[DiskConfig, ...]) -> str:
    return f" ({', '.join(disk.name for disk in config)})" if config else ""
