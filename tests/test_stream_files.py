"""A saved machine is the old file or the new one, whole; and a bad file changes nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from full_disk import files_limited_to
from state_samples import MEMORY, sample_ram, sample_state, to_bytes

from hypervisor.errors import HostError, StateError
from hypervisor.state.files import load, save, save_state


class Machine:
    """The least that can be saved."""

    def __init__(self, seed: int = 1) -> None:
        self._ram = sample_ram(seed=seed)
        self.captured = 0

    @property
    def ram(self) -> memoryview:
        return memoryview(self._ram)

    def present(self):
        return None

    def capture(self):
        self.captured += 1
        return sample_state()


def test_a_machine_comes_back_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    summary = save(Machine(), path)
    assert path.stat().st_size == summary.length
    assert path.read_bytes() == to_bytes(sample_state(), sample_ram())
    saved = load(path)
    state, fill = saved.state, saved.fill
    assert state == sample_state()
    ram = bytearray(b"\xee" * MEMORY)
    seen: list[int] = []
    fill(memoryview(ram), progress=lambda done, total: seen.append(done))
    assert ram == sample_ram()
    assert seen[-1] == MEMORY


def test_a_saved_machine_is_private(tmp_path: Path) -> None:
    save(Machine(), tmp_path / "saved")
    assert (tmp_path / "saved").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("room", [0, 100, 5000, 20000])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, room: int) -> None:
    path = tmp_path / "saved"
    save(Machine(), path)
    old = path.read_bytes()
    with files_limited_to(room), pytest.raises(HostError, match=r"cannot save to .*saved: "):
        save(Machine(seed=2), path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", [(os, "fsync"), (Path, "replace")], ids=["fsync", "rename"])
def test_a_failure_at_the_last_step_leaves_the_old_file(
    tmp_path: Path, monkeypatch, step: tuple[object, str]
) -> None:
    path = tmp_path / "saved"
    save(Machine(), path)
    old = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*step, fail)
    with pytest.raises(HostError, match="No space left on device"):
        save(Machine(seed=2), path)
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_a_regular_file_is_never_replaced(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, Path("/dev/null")):
        with pytest.raises(HostError, match="not a regular file"):
            save(Machine(), path)
    for path in (fifo, tmp_path):
        with pytest.raises((HostError, StateError), match=r"not a regular file|Is a directory"):
            load(path)
    assert fifo.is_fifo()


def test_a_link_is_followed_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk" / "saved")
    save(Machine(), link)
    assert link.is_symlink()
    assert load(link).state == sample_state()


def test_a_missing_file_or_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"cannot load .*nothing: No such file or directory$"):
        load(tmp_path / "nothing")
    with pytest.raises(HostError, match=r"cannot save to .*x: No such file or directory$"):
        save(Machine(), tmp_path / "no" / "x")


def test_a_bad_file_is_refused_before_it_gives_anything_away(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    good = to_bytes(sample_state(), sample_ram())
    for bad in (b"", good[:-1], good + b"\0", good[:-1] + bytes([good[-1] ^ 1]), b"#!/bin/sh\n" * 10):
        path.write_bytes(bad)
        with pytest.raises(StateError, match=f"^{path}: ") as refusal:
            load(path)
        assert "\n" not in str(refusal.value)


def test_a_file_that_changes_after_the_check_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    save(Machine(), path)
    fill = load(path).fill
    save_state(sample_state(epoch=8), memoryview(sample_ram(seed=2)), path)
    ram = bytearray(MEMORY)
    with pytest.raises(StateError, match="changed since it was checked"):
        fill(memoryview(ram))
    assert ram == bytes(MEMORY)
