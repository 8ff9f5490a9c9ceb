"""The IDE channels against ``qemu-system-i386 -M isapc``: the same port accesses read the same values.

QEMU reads and writes its disks in its own good time, so a script waits while the drive is busy. It is
started with ``-nodefaults``: otherwise there would be a CD-ROM drive on the second channel.
"""

from __future__ import annotations

import itertools
import random
import struct
from pathlib import Path

import pytest
from port_script import (
    MISSING,
    MemoryDisk,
    Recorder,
    Step,
    build_kernel,
    delay,
    differences,
    indexed,
    play_here,
    play_on_qemu,
    read,
    until_clear,
    write,
)

pytestmark = [pytest.mark.qemu, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

SEEDS = range(6)
BUSY = 0x80
CHANNELS = ((0x1F0, 0x3F6), (0x170, 0x376))
QUIET = [
    *(write(0x43, 0x32), write(0x40, 0xFF), write(0x40, 0xFF)),
    *(write(0x20, 0x11), write(0x21, 0x20), write(0x21, 0x04), write(0x21, 0x01)),
    *(write(0xA0, 0x11), write(0xA1, 0x28), write(0xA1, 0x02), write(0xA1, 0x01)),
]
"""A timer that does not tick, and the 8259s initialized: their IRRs say which line has risen."""


def noise(seed: int, sectors: int) -> bytes:
    return random.Random(seed).randbytes(sectors * 512)


def partitioned(contents: bytes, *entries: bytes) -> bytes:
    """``contents`` with a partition table in its first sector."""
    table = b"".join(entries).ljust(64, b"\0")
    return contents[:0x1BE] + table + b"\x55\xaa" + contents[512:]


def entry(head: int, sector: int, size: int = 1000) -> bytes:
    return bytes((0x80, 1, 1, 0, 0x0C, head, sector, 0xFF)) + struct.pack("<II", 63, size)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    return build_kernel(tmp_path_factory.mktemp("port-script"))


@pytest.fixture
def compare(kernel, tmp_path):
    def run(script: list[Step], *disks: bytes) -> list[int]:
        options = ["-nodefaults", "-vga", "cirrus"]
        for number, contents in enumerate(disks):
            path = tmp_path / f"disk{number}.img"
            path.write_bytes(contents)
            options += ["-drive", f"file={path},format=raw,if=ide,index={number},snapshot=on"]
        here = play_here(script, Recorder(disks=[MemoryDisk(contents) for contents in disks]), 1)
        assert differences(script, here, play_on_qemu(kernel, script, *options)) == []
        return here

    return run


def look(base: int = 0x1F0, control: int = 0x3F6) -> list[Step]:
    """Everything that can be read without taking data: the 8259 first, since reading the status lowers INTRQ."""
    return [
        *(write(0xA0, 0x0A), read(0xA0), read(control)),
        *(read(base + register) for register in range(1, 8)),
        read(0xA0),
    ]


def look_behind(base: int = 0x1F0, control: int = 0x3F6) -> list[Step]:
    """The registers' earlier contents."""
    return [write(control, 0x88), *(read(base + register) for register in range(1, 8)), write(control, 0x08)]


def command(
    code: int, *, count: int = 1, sector: int = 0, device: int = 0xE0, feature: int = 0
) -> list[Step]:
    """A command with 28-bit addresses, up to where the drive is no longer busy."""
    values = (feature, count, sector & 0xFF, sector >> 8 & 0xFF, sector >> 16 & 0xFF, device | sector >> 24)
    script = [write(0x1F1 + place, value) for place, value in enumerate(values)]
    return [*script, write(0x1F7, code), until_clear(0x3F6, BUSY)]


def reset() -> list[Step]:
    """A software reset. Whether it is over cannot be seen at a drive that is not there: select another before."""
    return [write(0x3F6, 0x0C), until_clear(0x3F6, BUSY), delay(1_000_000), write(0x3F6, 0x08)]


def words(count: int) -> list[Step]:
    return [read(0x1F0, 2)] * count


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_kernel_finds_the_drives_as_the_firmware_leaves_them(compare, number):
    script = list(QUIET)
    for base, control in CHANNELS:
        script += look(base, control)
        for device in (0xA0, 0xB0):
            script += [write(base + 6, device), *look(base, control), *look_behind(base, control)]
    compare(script, *(noise(place, 2000 + place) for place in range(number)))


def sparse(path: Path, sectors: int, first: bytes = b"") -> tuple[MemoryDisk, list[str]]:
    """A large disk of zeros, here and as QEMU's option."""
    with path.open("wb") as file:
        file.write(first)
        file.truncate(sectors * 512)
    disk = MemoryDisk(first or bytes(512))
    disk.sectors = sectors
    return disk, ["-drive", f"file={path},format=raw,if=ide,snapshot=on"]


def test_a_kernel_finds_the_disks_in_the_cmos(kernel, tmp_path):
    indexes = (0x12, *range(0x19, 0x2D), 0x39)
    script = [step for index in indexes for step in indexed(0x70, index)]
    sizes = {
        16_384: entry(254, 63),
        3 << 20: entry(254, 63),
        1 << 21: entry(15, 32),
        3_000: b"",
        1 << 28: b"",
    }
    drives = [
        sparse(tmp_path / str(size), size, partitioned(bytes(512), table)) for size, table in sizes.items()
    ]
    for (first, there), (second, also_there) in itertools.pairwise(drives):
        here = play_here(script, Recorder(disks=[first, second]))
        assert (
            differences(script, here, play_on_qemu(kernel, script, "-nodefaults", *there, *also_there)) == []
        )


@pytest.mark.parametrize(
    "table",
    [
        entry(15, 63),
        entry(7, 17),
        entry(0, 63) + entry(3, 0) + entry(9, 40),
        entry(9, 40, size=0),
        entry(254, 63),
        entry(1, 1),
    ],
)
def test_the_shape_of_a_disk_follows_its_partition_table(compare, table):
    compare([*command(0xEC), *words(257), *look()], partitioned(noise(1, 20_000), table))


@pytest.mark.parametrize("sectors", [1, 1008, 2048, 1024 * 1008, 1025 * 1008, 1 << 24, (1 << 28) + 5])
def test_drives_of_any_size_identify_themselves_alike(kernel, tmp_path, sectors):
    script = [*command(0xEC), *words(256), *command(0xF8), *look(), *command(0x27), *look(), *look_behind()]
    disk, option = sparse(tmp_path / "disk.img", sectors)
    here = play_here(script, Recorder(disks=[disk]))
    there = play_on_qemu(kernel, script, "-nodefaults", *option)
    assert differences(script, here, there) == []


def test_wide_accesses_reach_the_data_register_only(compare):
    script = [*command(0x20, count=2), read(0x1F0), read(0x1F0, 2), read(0x1F0, 4), *look()]
    for base, control in CHANNELS:
        script += [read(base + register, size) for register in range(8) for size in (2, 4)]
        script += [read(control, size) for size in (2, 4)]
    script += reset()
    for size in (2, 4):
        script += [write(0x1F2, 0xA5C3_9617 & (1 << 8 * size) - 1, size), *look(), *look_behind()]
    script += [write(0x1F5, 0xB096, 2), *look(), write(0x3F6, 0xFF0A, 2), *look()]
    compare(script, noise(1, 100))


@pytest.mark.parametrize("first", range(0, 256, 64))
def test_every_command_code_leaves_the_same_registers(compare, first):
    script = list(QUIET)
    for code in range(first, first + 64):
        for device in (0xE0, 0xF0, 0xA0):
            script += [*command(code, count=2, sector=0x010203, device=device), *look(), *look_behind()]
            script += [*([write(0x1F6, 0xE0)] if device == 0xF0 else []), *reset()]
            script += [write(0xA0, 0x60 | 6), *look()]
    compare(script, noise(1, 100_000))


def test_sectors_are_read_in_every_way(compare):
    script: list[Step] = list(QUIET)
    for code, count in ((0x20, 1), (0x21, 3), (0xC4, 16), (0xC4, 37), (0x20, 5)):
        script += command(code, count=count, sector=77)
        for _ in range(count):
            script += [*look(), *words(256), until_clear(0x3F6, BUSY)]
        script += look()
    script += command(0x20, count=3, sector=2999)  # 2999 is the last
    script += [*look(), *words(256), until_clear(0x3F6, BUSY), *look(), *words(3), *look()]
    script += [*command(0x20, count=1, sector=3000), *look(), *words(2)]
    # Cylinder, head, sector; sector 0 does not exist.
    for cylinder, head, sector in ((0, 0, 1), (0, 15, 63), (1, 2, 3), (2, 0, 0), (0, 0, 0), (200, 0, 1)):
        values = (0, 2, sector, cylinder, cylinder >> 8, 0xA0 | head)
        script += [write(0x1F1 + place, value) for place, value in enumerate(values)]
        script += [write(0x1F7, 0x20), until_clear(0x3F6, BUSY), *look(), *words(100), *[read(0x1F0, 4)] * 78]
        script += [until_clear(0x3F6, BUSY), *look(), *words(256), *look()]
    compare(script, noise(2, 3000))


def extended(code: int, count: int, sector: int) -> list[Step]:
    """A command with 48-bit addresses: each register takes its high byte first."""
    pairs = ((2, count >> 8, count), (3, sector >> 24, sector), (4, sector >> 32, sector >> 8))
    pairs = (*pairs, (5, sector >> 40, sector >> 16))
    script = [write(0x1F6, 0xE0)]
    for register, high, low in pairs:
        script += [write(0x1F0 + register, high & 0xFF), write(0x1F0 + register, low & 0xFF)]
    return [*script, write(0x1F7, code), until_clear(0x3F6, BUSY)]


def test_48_bit_commands_take_both_halves_of_the_registers(compare):
    script = list(QUIET)
    for code in (0x24, 0x29, 0x34, 0x39, 0x42, 0x27):
        for count, sector in (
            (2, 5),
            (0x0102, 0x10),
            (0, 0),
            (1, 2999),
            (1, 3000),
            (1, 0x0100_0000),
            (3, 1 << 47),
        ):
            script += [*extended(code, count, sector), *look(), *look_behind()]
            script += [*words(256), until_clear(0x3F6, BUSY), *look(), *look_behind(), *reset(), *look()]
    compare(script, noise(3, 3000))


def test_what_was_written_is_read_back(compare):
    rng = random.Random(4)
    script: list[Step] = list(QUIET)
    for code, count, size in ((0x30, 1, 2), (0x31, 2, 4), (0xC5, 16, 4), (0xC5, 19, 2), (0x3C, 1, 4)):
        script += command(code, count=count, sector=1500)
        for number in range(count):
            script += look() if number < 3 else []
            script += [write(0x1F0, rng.getrandbits(8 * size), size) for _ in range(512 // size)]
            script.append(until_clear(0x3F6, BUSY))
        script += [*look(), *command(0xE7), *look(), *command(0x20, count=count, sector=1500)]
        for _ in range(count):
            script += [*[read(0x1F0, 4)] * 128, until_clear(0x3F6, BUSY)]
    script += command(0x30, count=2, sector=2999)
    for _ in range(2):
        script += [*[write(0x1F0, 0x12345678, 4)] * 128, until_clear(0x3F6, BUSY), *look()]
    compare(script, noise(5, 3000))


def test_features_change_what_identify_says(compare):
    identify = [*command(0xEC), *words(256)]
    script = list(QUIET)
    for feature in range(256):
        counts = range(0, 128, 3) if feature == 0x03 else (0,)
        for count in counts:
            script += [*command(0xEF, feature=feature, count=count), *look()]
            if feature in (0x02, 0x03, 0x82):
                script += identify
    for count in (0, 1, 2, 3, 4, 8, 16, 17, 32, 0x82):
        script += [*command(0xC6, count=count), *look(), *command(0xC4, count=5), *look(), *reset()]
    script += [*identify, *command(0xEC, device=0xF0), *words(256)]
    compare(script, noise(6, 2000), noise(7, 1500))


def test_the_shape_can_be_set_and_comes_back_when_wanted(compare):
    script = list(QUIET)
    for device, count in ((0xA7, 17), (0xAF, 255), (0xA0, 1), (0xE3, 40)):
        script += [*command(0x91, device=device, count=count), *look(), *command(0xF8, device=0xA0), *look()]
        script += [*command(0x20, count=2, sector=0x010203, device=0xA1), *look(), *words(256)]
        script += [until_clear(0x3F6, BUSY), *look(), *reset(), *command(0xF8, device=0xA0), *look()]
    for features in ((0xCC,), (), (0xCC, 0x66)):
        script += command(0x91, device=0xA2, count=9)
        for feature in features:
            script += command(0xEF, feature=feature)
        script += [
            *reset(),
            *command(0xF8, device=0xA0),
            *look(),
            *reset(),
            *command(0xF8, device=0xA0),
            *look(),
        ]
    script += [*command(0xEC), *words(256), *command(0x91, device=0xB3, count=3), *look()]
    compare(script, noise(11, 3000))


def test_smart_answers_alike(compare):
    script = list(QUIET)
    for function, sector in (
        *(
            (0xD0, 0),
            (0xD1, 0),
            (0xD5, 1),
            (0xD5, 6),
            (0xD5, 7),
            (0xD2, 0),
            (0xD0, 0),
            (0xD2, 0xF1),
            (0xD2, 5),
        ),
        *((0xD4, 0), (0xD4, 1), (0xD4, 2), (0xD4, 3), (0xD5, 6), (0xDA, 0), (0xD3, 0), (0xD9, 0), (0xD0, 0)),
        *((0xDA, 0), (0xD8, 0), (0xDA, 0), (0xDB, 0), (0xD0, 0)),
    ):
        script += command(0xB0, feature=function, sector=0xC24F00 | sector)
        script += [*look(), *words(256), *look()]
    script += [*command(0xB0, feature=0xD0, sector=0), *look()]
    compare(script, noise(8, 200))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_drives_hold_the_same_registers_under_random_programming(compare, seed):
    rng = random.Random(f"ide {seed}")
    codes = (
        *(0x20, 0x20, 0x24, 0x30, 0x30, 0x34, 0xC4, 0xC5, 0x29, 0x39, 0xEC, 0xE7, 0xEA, 0xEF, 0xC6, 0x90),
        *(0x10, 0x40, 0x42, 0x27, 0xF8, 0x91, 0xE5, 0xB0, 0xA1, 0xEF, 0xF5),
    )
    script: list[Step] = list(QUIET)
    for _ in range(250):
        base, control = CHANNELS[rng.random() < 0.15]
        for _ in range(rng.randrange(9)):
            register = rng.choice((1, 2, 2, 3, 4, 5, 6, 6))
            small = rng.choice((0, 1, 2, 3, 16))
            value = rng.choice((0xA0, 0xE0, 0xB0, 0xF0, 0xE1)) if register == 6 else small
            script.append(write(base + register, value if rng.random() < 0.9 else rng.randrange(256)))
        if rng.random() < 0.2:
            script.append(write(control, rng.choice((0, 2, 8, 0x0A, 0x80, 0x82))))
        if rng.random() < 0.8:
            code = rng.choice(codes) if rng.random() < 0.95 else rng.randrange(256)
            if code == 0x91:  # a track without sectors would kill QEMU
                script.append(write(base + 2, rng.randrange(1, 64)))
            script.append(write(base + 7, code))
        script.append(until_clear(control, BUSY))
        script += look(base, control) if rng.random() < 0.7 else [read(base + rng.randrange(1, 8))]
        for _ in range(rng.choice((0, 0, 1, 2, 17))):
            size = rng.choice((2, 4))
            access = read(base, size) if rng.random() < 0.6 else write(base, rng.getrandbits(8 * size), size)
            script += [access] * (512 // size)
            script += [until_clear(control, BUSY), read(control)]
        if rng.random() < 0.25:
            script += [write(0xA0, 0x60 | rng.choice((6, 7))), write(0xA0, 0x0A), read(0xA0)]
        if rng.random() < 0.2:
            script += [
                write(base + 6, 0xE0),
                write(control, rng.choice((4, 6, 0x0C))),
                until_clear(control, BUSY),
            ]
            script += [delay(5_000_000), write(control, rng.choice((0, 8))), *look(base, control)]
    compare(script, noise(9, 40), *([noise(10, 25)] if seed % 2 else []))
