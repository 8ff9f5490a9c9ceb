"""Disks of a machine: images stay clean or keep what was written, states fit their images, bad files are refused."""

from __future__ import annotations

import io
import logging
import os
import threading
from pathlib import Path

import pytest
from port_script import build_kernel

from hypervisor.devices import image as image_module
from hypervisor.devices.disk import Disk, Disks
from hypervisor.devices.image import CHUNK, DiskFile, parse_disk
from hypervisor.errors import HostError, HypervisorError, StateError, UsageError
from hypervisor.machine import VirtualMachine
from hypervisor.migration import Listener, SendError, send
from hypervisor.repl import machines
from hypervisor.state import files
from hypervisor.state.model import MachineConfig
from hypervisor.state.stream import StreamReader, write_stream

SECTORS = 1000
DATA = bytes(range(256)) * 2
STATUS, BUSY, REQUEST, ERROR = 0x1F7, 0x80, 0x08, 0x01


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    return build_kernel(tmp_path_factory.mktemp("port-script"))


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "hda.img"
    path.write_bytes(b"".join(number.to_bytes(2, "little") * 256 for number in range(SECTORS)))
    return path


@pytest.fixture
def boot(kernel):
    """Machines that never run: the tests are their kernel, and talk to the drive themselves."""
    made = []

    def make(*disks: str | Path | DiskFile) -> VirtualMachine:
        made.append(VirtualMachine.boot(kernel, memory=2 << 20, modules=[kernel], disks=disks))
        return made[-1]

    yield make
    for vm in made:
        vm.close()


def command(vm: VirtualMachine, code: int, sector: int, count: int = 1) -> int:
    """Give a 28-bit command to drive 0, wait until it is no longer busy, and return its status."""
    for register, value in enumerate((count, sector, sector >> 8, sector >> 16, 0xE0), start=2):
        vm.devices.write_port(0x1F0 + register, 1, value & 0xFF)
    vm.devices.write_port(STATUS, 1, code)
    return settle(vm)


def settle(vm: VirtualMachine) -> int:
    vm.devices.ide.advance(1 << 62)
    return vm.devices.read_port(STATUS, 1)


def read_sector(vm: VirtualMachine, sector: int) -> bytes:
    assert command(vm, 0x20, sector) & (BUSY | REQUEST | ERROR) == REQUEST
    return b"".join(vm.devices.read_port(0x1F0, 4).to_bytes(4, "little") for _ in range(128))


def write_sector(vm: VirtualMachine, sector: int, data: bytes = DATA) -> int:
    assert command(vm, 0x30, sector) & REQUEST
    for at in range(0, 512, 4):
        vm.devices.write_port(0x1F0, 4, int.from_bytes(data[at : at + 4], "little"))
    return settle(vm)


def restored(vm: VirtualMachine, *disks: str | Path | DiskFile) -> VirtualMachine:
    """The same machine out of its stream, with these images."""
    stream = io.BytesIO()
    write_stream(vm.capture(), vm.ram, stream.write)
    reader = StreamReader(io.BytesIO(stream.getvalue()).readinto)
    state = reader.read_state()
    twin = VirtualMachine.create(state.config, disks)
    try:
        reader.read_ram(twin.ram)
        twin.restore(state)
    except BaseException:
        twin.close()
        raise
    return twin


# ------------------------------------------------------------------------------------ where changes go


def test_an_image_stays_as_it_was_and_the_guest_sees_its_changes(boot, image):
    before = image.read_bytes()
    vm = boot(image)
    assert write_sector(vm, 7) & ERROR == 0
    assert write_sector(vm, SECTORS - 1) & ERROR == 0
    assert command(vm, 0xE7, 0) & ERROR == 0
    assert read_sector(vm, 7) == read_sector(vm, SECTORS - 1) == DATA
    assert read_sector(vm, 6) == before[6 * 512 : 7 * 512]
    assert image.read_bytes() == before


def test_a_persistent_image_takes_the_changes(boot, image):
    before = image.read_bytes()
    vm = boot(f"{image},persist")
    write_sector(vm, 7)
    assert read_sector(vm, 7) == DATA
    vm.close()
    assert image.read_bytes() == before[: 7 * 512] + DATA + before[8 * 512 :]


@pytest.mark.parametrize("cache", [True, False])
def test_what_was_flushed_has_reached_the_storage(boot, image, monkeypatch, cache):
    flushed = []
    monkeypatch.setattr(image_module.os, "fdatasync", flushed.append)
    vm = boot(f"{image},persist")
    if not cache:
        vm.devices.write_port(0x1F1, 1, 0x82)
        command(vm, 0xEF, 0)
    already = len(flushed)
    write_sector(vm, 7)
    assert len(flushed) - already == (0 if cache else 1), "without a write cache, every write is on the disk"
    command(vm, 0xE7, 0)
    assert len(flushed) - already == (1 if cache else 2)


def test_the_overlay_is_part_of_the_digest_and_where_it_lies_is_not(boot, image, tmp_path):
    other = tmp_path / "other.img"
    other.write_bytes(image.read_bytes())
    overlaid, persistent = boot(image), boot(f"{other},persist")
    assert overlaid.digest() == persistent.digest()
    fresh = overlaid.digest()
    for vm in (overlaid, persistent):
        for sector in (0, 129, SECTORS - 1):
            write_sector(vm, sector)
    assert overlaid.digest() == persistent.digest() != fresh
    changed = overlaid.state_digest()
    overlaid.disks.list[0].write(0, bytes(512))
    assert {part for part, digest in overlaid.state_digest().items() if digest != changed[part]} == {"disk 0"}
    assert DATA in other.read_bytes()


def test_capturing_twice_gives_equal_states_that_later_writes_do_not_change(boot, image):
    vm = boot(image)
    write_sector(vm, 7)
    first, second = vm.capture(), vm.capture()
    assert first == second
    write_sector(vm, 7, bytes(512))
    assert first == second != vm.capture()


# ---------------------------------------------------------------------------- states and their images


def test_a_restored_machine_has_its_disk_with_the_changes(boot, image, tmp_path):
    vm = boot(image)
    write_sector(vm, 7)
    write_sector(vm, SECTORS - 1)
    copied = tmp_path / "elsewhere.img"
    copied.write_bytes(image.read_bytes())
    with restored(vm, copied) as twin:
        assert twin.digest() == vm.digest()
        assert twin.capture().disks == vm.capture().disks
        assert read_sector(twin, 7) == read_sector(twin, SECTORS - 1) == DATA


def test_a_snapshot_brings_the_overlay_back(boot, image):
    vm = boot(image)
    write_sector(vm, 7)
    snapshot, digest = vm.snapshot(), vm.digest()
    write_sector(vm, 7, bytes(512))
    write_sector(vm, 500)
    vm.load_snapshot(snapshot)
    assert vm.digest() == digest
    assert read_sector(vm, 7) == DATA


def test_an_image_with_other_contents_is_refused_and_nothing_has_changed(boot, image, tmp_path):
    vm = boot(image)
    other = tmp_path / "other.img"
    other.write_bytes(image.read_bytes()[:-1] + b"!")
    with pytest.raises(StateError, match=r"disk 0: .*other\.img does not hold .* is another image$"):
        restored(vm, other)
    twin = boot(other)
    before = twin.digest()
    with pytest.raises(StateError):
        twin.restore(vm.capture())
    assert twin.digest() == before


def test_a_disk_that_is_missing_or_of_another_kind_or_size_is_named(boot, image, tmp_path):
    vm = boot(image)
    with pytest.raises(StateError, match=r"1 disk \(hda\.img\), none given here: .*--disk"):
        restored(vm)
    with pytest.raises(StateError, match=r"1 disk .*, 2 given here"):
        restored(vm, image, image)
    with pytest.raises(StateError, match="no disks, 1 given here"):
        restored(boot(), image)
    small = tmp_path / "small.img"
    small.write_bytes(bytes(512))
    with pytest.raises(StateError, match=r"disk 0 \(hda\.img\) has 1000 sectors, .*small\.img has 1$"):
        restored(vm, small)
    with pytest.raises(StateError, match="without ,persist"):
        restored(vm, f"{small.with_name('hda.img')},persist")


def test_a_persistent_disk_cannot_go_back_in_time(boot, image):
    vm = boot(f"{image},persist")
    snapshot = vm.snapshot()
    vm.load_snapshot(snapshot)
    write_sector(vm, 7)
    with pytest.raises(StateError, match="was written to since the state was taken"):
        vm.load_snapshot(snapshot)
    assert read_sector(vm, 7) == DATA


def test_an_image_that_somebody_changes_under_the_machine_is_noticed(boot, image):
    vm = boot(image)
    vm.capture()
    with image.open("r+b") as file:
        file.write(b"changed")
    os.utime(image, ns=(1, 1))
    with pytest.raises(HostError, match="somebody changed the image"):
        vm.capture()


def test_a_saved_machine_needs_its_disk_to_be_loaded(boot, image, tmp_path):
    vm = boot(image)
    write_sector(vm, 7)
    saved = tmp_path / "saved"
    files.save(vm, saved)
    with pytest.raises(StateError, match="--disk"):
        machines.load(saved)
    with machines.load(saved, disks=[DiskFile(image)]) as twin:
        assert twin.digest() == vm.digest()


# ------------------------------------------------------------------------------- one writer at a time


def test_nobody_else_uses_a_disk_that_is_being_written(boot, image):
    reader = boot(image)
    boot(image)  # any number may read
    with pytest.raises(HostError, match=r"hda\.img: in use by another machine"):
        boot(f"{image},persist")
    for vm in (reader,):
        vm.close()


def test_a_persistent_disk_has_one_machine(boot, image):
    first = boot(f"{image},persist")
    for text in (f"{image},persist", str(image)):
        with pytest.raises(HostError, match="another machine"):
            boot(text)
    first.close()
    boot(f"{image},persist")


def hand_over(vm: VirtualMachine, *disks: str) -> VirtualMachine:
    """Migrate to a listener in this process that has these disks."""
    arrived: list[VirtualMachine | HypervisorError] = []

    def receive(listener: Listener) -> None:
        try:
            arrived.append(listener.receive(lambda config: VirtualMachine.create(config, disks), timeout=20))
        except HypervisorError as error:
            arrived.append(error)

    with Listener("tcp:127.0.0.1:0") as listener:
        thread = threading.Thread(target=receive, args=(listener,))
        thread.start()
        try:
            send(vm, listener.address)
        finally:
            thread.join()
    assert isinstance(arrived[0], VirtualMachine)
    return arrived[0]


@pytest.mark.parametrize("mode", ["", ",persist"])
def test_a_disk_goes_with_its_machine(boot, image, mode):
    vm = boot(f"{image}{mode}")
    write_sector(vm, 7)
    digest = vm.digest()
    with hand_over(vm, f"{image}{mode}") as there:
        assert there.digest() == digest
        assert read_sector(there, 7) == DATA
        assert write_sector(there, 8) & ERROR == 0
        if mode:
            with pytest.raises(HostError, match="in use by another machine"):
                vm.disks.hold()


@pytest.mark.parametrize("mode", ["", ",persist"])
def test_a_machine_whose_disk_is_not_there_stays_with_its_source(boot, image, tmp_path, mode):
    vm = boot(f"{image}{mode}")
    write_sector(vm, 7)
    stale = tmp_path / "stale.img"
    stale.write_bytes(bytes(SECTORS * 512))
    for disks in ([], [f"{stale}{mode}"]):
        with pytest.raises(SendError, match="disk"):
            hand_over(vm, *disks)
        assert vm.owned
        assert read_sector(vm, 7) == DATA
    if mode:
        with pytest.raises(HostError, match="in use by another machine"):
            boot(f"{image},persist")


# ----------------------------------------------------------------------------------------- bad disks


def test_files_that_are_no_disks_are_refused_in_one_line(boot, tmp_path):
    empty, truncated, absurd, fifo = (tmp_path / name for name in ("empty", "truncated", "absurd", "fifo"))
    empty.touch()
    truncated.write_bytes(bytes(1000))
    with absurd.open("wb") as file:
        file.truncate(5 << 40)
    os.mkfifo(fifo)
    wrong = {
        tmp_path / "missing": "No such file or directory",
        tmp_path: "Is a directory",
        empty: "it is empty",
        truncated: "1000 bytes are no whole number of 512-byte sectors: is it truncated?",
        absurd: "disks of more than 2 TiB are not supported",
        fifo: "neither a file nor a block device",
        tmp_path / "a\0b": "embedded null byte",
    }
    for path, reason in wrong.items():
        for mode in (False, True):
            with pytest.raises(HostError) as refusal:
                boot(DiskFile(path, mode))
            assert reason in str(refusal.value)
            assert str(refusal.value).startswith(f"disk {path}: ")
            assert "\n" not in str(refusal.value)


def test_there_is_room_for_two_disks(boot, image):
    boot(image, image)
    with pytest.raises(UsageError, match="3 disks: there is room for 2"):
        boot(image, image, image)


def test_a_file_is_persistent_only_when_it_is_said():
    assert parse_disk("a.img") == DiskFile(Path("a.img"), persistent=False)
    assert parse_disk("a.img,persist") == DiskFile(Path("a.img"), persistent=True)
    assert parse_disk("a,b.img") == DiskFile(Path("a,b.img"), persistent=False)
    for text in ("", ",persist"):
        with pytest.raises(UsageError):
            parse_disk(text)


@pytest.mark.parametrize("mode", ["", ",persist"])
def test_a_file_that_fails_is_an_error_for_the_guest_and_one_line_for_us(boot, image, caplog, mode):
    vm = boot(f"{image}{mode}")
    write_sector(vm, 7)
    os.truncate(image, 100 * 512)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert command(vm, 0x20, 500) & (BUSY | REQUEST | ERROR) == ERROR
            assert vm.devices.read_port(0x1F1, 1) == 0x04
    assert [record.getMessage() for record in caplog.records] == [
        f"disk {image}: reading sector 500 failed: the file is shorter than it was; the guest gets an error"
    ]
    assert read_sector(vm, 7) == DATA
    with pytest.raises(HostError, match="disk"):
        vm.digest()


def test_writes_and_flushes_that_fail_are_errors_for_the_guest(boot, image, monkeypatch):
    vm = boot(f"{image},persist")

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_module.os, "pwrite", fail)
    monkeypatch.setattr(image_module.os, "fdatasync", fail)
    assert write_sector(vm, 7) & ERROR
    assert command(vm, 0xE7, 0) & ERROR
    monkeypatch.undo()
    assert write_sector(vm, 7) & ERROR == 0
    assert read_sector(vm, 7) == DATA


# -------------------------------------------------------------------------------------------- digests


def test_the_digest_is_of_the_contents_and_leaves_holes_out(tmp_path):
    """2 TiB of nothing is digested at once, and equals the same zeros written out."""
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(2 << 40)
    (disk,) = Disks([sparse]).list
    assert disk.contents() == disk.base()
    contents = bytearray(3 * CHUNK + 512)
    contents[CHUNK + 5] = 1
    solid, holed = tmp_path / "solid", tmp_path / "holed"
    solid.write_bytes(contents)
    with holed.open("wb") as file:
        file.truncate(len(contents))
        file.seek(CHUNK + 5)
        file.write(b"\1")
    assert Disk(0, DiskFile(solid)).contents() == Disk(0, DiskFile(holed)).contents()


def test_every_write_is_in_the_digest_however_it_is_cut(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for path in (first, second):
        path.write_bytes(bytes(300 * 512))
    whole, parts = Disk(0, DiskFile(first)), Disk(0, DiskFile(second, persistent=True))
    data = os.urandom(20 * 512)
    seen = {whole.contents()}
    for start in (0, 3, 120, 125, 279, 280):
        whole.write(start, data)
        for number in range(20):
            parts.write(start + number, data[number * 512 : (number + 1) * 512])
        assert whole.contents() == parts.contents() not in seen
        seen.add(whole.contents())
        assert whole.read(0, 300) == parts.read(0, 300)
    assert first.read_bytes() == bytes(300 * 512)


def test_a_config_without_disks_is_that_of_every_machine_before_there_were_any():
    assert MachineConfig(memory=1 << 20).disks == ()
