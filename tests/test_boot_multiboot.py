"""A kernel gets what the Multiboot specification promises, and the same numbers as from QEMU's ``-kernel``."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from port_script import MISSING

from hypervisor.boot import elf
from hypervisor.boot.multiboot import INFO, MAGIC, Loader, firmware_map
from hypervisor.errors import ImageError
from hypervisor.machine import VirtualMachine

SOURCE = Path(__file__).parent / "data" / "boot_dump.S"
LOW, LOW_END, LOADED, HIGH_SIZE = 0x9000, 0xB000, 0x100000, 0x10000
"""What the kernel in ``data/boot_dump.S`` sends after its two registers."""

needs_tools = pytest.mark.skipif(bool(MISSING), reason=MISSING or "")


# ------------------------------------------------------------------------- a kernel that looks around


def assemble(directory: Path, *defines: str, flat: bool = False) -> Path:
    objects, image = directory / "dump.o", directory / ("dump.bin" if flat else "dump.elf")
    subprocess.run(["gcc", "-m32", *defines, "-c", SOURCE, "-o", objects], check=True)
    link = ["ld", "-m", "elf_i386", "-N", "--no-warn-rwx-segments", "--build-id=none", "-Ttext=0x100000"]
    subprocess.run([*link, *(["--oformat", "binary"] if flat else []), "-o", image, objects], check=True)
    return image


@dataclass
class Dump:
    """What the kernel saw."""

    raw: bytes

    def memory(self, address: int, size: int) -> bytes:
        if LOW <= address < LOW_END:
            at = 8 + address - LOW
        else:
            at = 8 + LOW_END - LOW + address - LOADED
            assert LOADED <= address < LOADED + HIGH_SIZE
        return self.raw[at : at + size]

    def text(self, address: int) -> str:
        return self.memory(address, 500).split(b"\0")[0].decode()

    @property
    def registers(self) -> tuple[int, int]:
        return struct.unpack_from("<II", self.raw)

    @property
    def info(self) -> tuple[int, ...]:
        return struct.unpack("<22I", self.memory(self.registers[1], 88))

    @property
    def numbers(self) -> list[int]:
        """The fields that name no address of a string."""
        return [value for index, value in enumerate(self.info) if index not in (4, 16)]

    @property
    def memory_map(self) -> list[tuple[int, int, int, int]]:
        length, at = self.info[11:13]
        return list(struct.iter_unpack("<IQQI", self.memory(at, length)))

    @property
    def modules(self) -> list[tuple[int, int, str, bytes]]:
        count, at = self.info[5:7]
        return [
            (start, end, self.text(words).rpartition("/")[2], self.memory(start, end - start))
            for start, end, words, _ in struct.iter_unpack("<IIII", self.memory(at, 16 * count))
        ]


def here(image: Path, memory: int, append: str = "", modules: list[tuple[Path, str]] | None = None) -> Dump:
    with VirtualMachine.boot(image, memory=memory << 20, append=append, modules=modules or []) as vm:
        stop = vm.run(instructions=10_000_000)
        assert (stop.reason, stop.status) == ("exit", 1), stop
        return Dump(bytes(vm.console.output))


def on_qemu(image: Path, memory: int, *options: str) -> Dump:
    command = ["qemu-system-i386", "-M", "isapc", "-m", str(memory), "-display", "none", "-monitor", "none"]
    command += ["-serial", "stdio", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    done = subprocess.run(
        [*command, "-kernel", str(image), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    return Dump(done.stdout)


@needs_tools
@pytest.mark.qemu
@pytest.mark.parametrize("memory", [2, 16, 64, 2000])
def test_the_boot_information_is_that_of_qemu(memory: int, tmp_path: Path) -> None:
    image = assemble(tmp_path)
    ours, theirs = here(image, memory, "some words"), on_qemu(image, memory, "-append", "some words")
    assert ours.registers == theirs.registers == (0x2BADB002, INFO)
    assert ours.numbers == theirs.numbers
    assert ours.memory_map == theirs.memory_map
    assert ours.text(ours.info[4]) == "dump.elf some words"
    assert theirs.text(theirs.info[4]) == f"{image} some words"
    assert ours.text(ours.info[16]) == "hypervisor"


@needs_tools
@pytest.mark.qemu
def test_modules_lie_where_qemu_puts_them(tmp_path: Path) -> None:
    image = assemble(tmp_path)
    files = [tmp_path / name for name in ("one", "two", "three")]
    for file, content in zip(files, (b"hello" * 1000, b"x", bytes(range(256)) * 16), strict=True):
        file.write_bytes(content)
    one, two, three = files
    ours = here(image, 16, modules=[(one, "some words"), (two, ""), (three, "x"), (one, "")])
    theirs = on_qemu(image, 16, "-initrd", f"{one} some words,{two},{three} x,{one}")
    assert ours.modules == theirs.modules
    assert [words for _, _, words, _ in ours.modules] == ["one some words", "two", "three x", "one"]
    assert all(start % 4096 == 0 for start, *_ in ours.modules)


@needs_tools
@pytest.mark.qemu
@pytest.mark.parametrize(
    ("gap", "load_end", "bss_end"),
    [
        (0, "image_end", "image_end"),
        (64, "0", "0"),
        (4000, "image_end", "image_end + 0x3000"),
        (8, "0", "0x105000"),
    ],
)
def test_a_flat_image_is_loaded_by_its_header(gap: int, load_end: str, bss_end: str, tmp_path: Path) -> None:
    defines = ("-DFLAT", f"-DHEADER_GAP={gap}", f"-DLOAD_END={load_end}", f"-DBSS_END={bss_end}")
    image = assemble(tmp_path, *defines, flat=True)
    note = tmp_path / "note"
    note.write_bytes(b"behind the bss")
    ours, theirs = (
        here(image, 16, "x", [(note, "")]),
        on_qemu(image, 16, "-append", "x", "-initrd", str(note)),
    )
    assert ours.memory(LOADED, gap) == theirs.memory(LOADED, gap) == b"\xcc" * gap
    assert ours.numbers == theirs.numbers
    assert ours.modules == theirs.modules


# ---------------------------------------------------------------------------- headers and segments


def header(flags: int = 0, *addresses: int) -> bytes:
    return struct.pack(f"<3I{len(addresses)}I", MAGIC, flags, -(MAGIC + flags) & 0xFFFFFFFF, *addresses)


def flat(load: int, load_end: int, bss_end: int, *, header_at: int | None = None, body: bytes = b"") -> bytes:
    at = load if header_at is None else header_at
    return header(0x10000, at, load, load_end, bss_end, load + 32) + body


def executable(*segments: tuple[int, int, bytes, int], entry: int = 0, extra: bytes = header()) -> bytes:
    """An ELF file; segments are (virtual, physical, data, size)."""
    offset = 52 + 32 * len(segments) + len(extra)
    table, body = b"", b""
    for virtual, physical, data, size in segments:
        table += struct.pack("<8I", 1, offset + len(body), virtual, physical, len(data), size, 7, 0)
        body += data
    identity = b"\x7fELF\x01\x01\x01" + bytes(9)
    numbers = (2, 3, 1, entry, 52, 0, 0, 52, 32, len(segments), 0, 0, 0)
    return struct.pack("<16sHHIIIIIHHHHHH", identity, *numbers) + table + extra + body


class Machine:
    def __init__(self, memory: int = 2 << 20, fill: int = 0xFF) -> None:
        self.ram = memoryview(bytearray([fill]) * memory)

    def load(self, image: bytes, append: str = "", modules: list[tuple[str, bytes]] | None = None) -> int:
        size = len(self.ram)
        regions = [(0, 0xA0000), *([(0x100000, size - 0x100000)] if size > 0x100000 else [])]
        return Loader(self.ram, regions).load("image", image, append, modules or []).eip

    def refuses(self, image: bytes, modules: list[tuple[str, bytes]] | None = None) -> str:
        with pytest.raises(ImageError) as caught:
            self.load(image, modules=modules)
        message = str(caught.value)
        assert "\n" not in message
        return message


def test_segments_go_to_their_physical_addresses_and_the_rest_is_zero() -> None:
    machine = Machine()
    entry = machine.load(
        executable((0xC0110000, 0x110000, b"text", 6), (0xC0120000, 0x120000, b"", 3), entry=0xC0110002)
    )
    assert entry == 0x110002
    assert machine.ram[0x10FFFF:0x110007] == b"\xfftext\0\0\xff"
    assert machine.ram[0x11FFFF:0x120004] == b"\xff\0\0\0\xff"


def test_an_entry_point_outside_all_segments_is_taken_as_it_is() -> None:
    assert Machine().load(executable((0xC0110000, 0x110000, b"text", 4), entry=0x110000)) == 0x110000


def test_the_addresses_of_a_flat_image_win_over_its_elf_header() -> None:
    image = executable((0x110000, 0x110000, b"text", 4), extra=flat(0x180000, 0, 0, header_at=0x180000 + 84))
    machine = Machine()
    assert machine.load(image) == 0x180000 + 32
    assert machine.ram[0x180000 : 0x180000 + len(image)] == image


@pytest.mark.parametrize("offset", [0, 4, 8192 - 12, 8192 - 12 + 2, 8192 - 8])
def test_the_header_is_found_where_the_specification_allows_it(offset: int) -> None:
    image = bytes(offset) + header(0x10000, 0x100000 + offset, 0x100000, 0, 0, 0x100000)
    if offset % 4 == 0 and offset + 12 <= 8192:
        Machine().load(image)
    else:
        assert "no header in its first 8192 bytes" in Machine().refuses(image)


def test_a_wrong_checksum_is_no_header() -> None:
    assert "not a Multiboot image" in Machine().refuses(struct.pack("<III", MAGIC, 0, 1 - MAGIC & 0xFFFFFFFF))


@pytest.mark.parametrize(("flags", "wanted"), [(4, "0x4"), (0x8007, "0x8004")])
def test_features_that_we_do_not_have_are_refused_by_name(flags: int, wanted: str) -> None:
    image = executable((0x100000, 0x100000, b"x", 1), extra=header(flags))
    assert f"requires features {wanted}" in Machine().refuses(image)


def test_optional_features_that_we_do_not_know_are_ignored() -> None:
    Machine().load(executable((0x100000, 0x100000, b"x", 1), extra=header(0xFFFE0003)))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (b"", "not a Multiboot image"),
        (b"\x7fELF" + header(), "truncated ELF"),
        (header(), "neither an ELF file nor an image with load addresses"),
        (header(0x10000, 1, 2), "cut off"),
        (flat(0x100000, 0x100100, 0), "truncated"),
        (flat(0x100000, 0x0FFFFF, 0), "make no sense"),
        (flat(0x100000, 0, 0x100001), "make no sense"),
        (flat(0x100000, 0, 0, header_at=0xFFFFC), "make no sense"),
        (flat(0x100000, 0, 0, header_at=0x100004), "make no sense"),
        (flat(0x100000, 0, 0xFFFFFFFF), "have no room"),
        (flat(0x9800 - 0x800, 0, 0, body=bytes(8192)), "where the boot information lies"),
        (executable(), "nothing to load"),
        (executable((0, 0x100000, b"text", 4))[:-1], "truncated"),
        (executable((0, 0x100000, b"text", 3)), "makes no sense"),
        (executable((0, 0x1FFFFF, b"text", 4)), "have no room"),
        (executable((0, 0x1FFFFC, b"text", 0xFFFFFFFF)), "have no room"),
        (executable((0, 0x9FFFE, b"text", 4)), "have no room"),
        (executable((0, 0xB8000, b"text", 4)), "have no room"),
        (executable((0, 0x100000, b"text", 0x100000)), "the command lines: it wants"),
        (executable((0, 0x9100, b"text", 4)), "where the boot information lies"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_line(image: bytes, words: str) -> None:
    assert words in Machine().refuses(image)


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (4, 2, "not for 32-bit x86"),
        (5, 2, "not for 32-bit x86"),
        (18, 62, "not for 32-bit"),
        (16, 3, "type 3"),
    ],
)
def test_elf_files_of_other_kinds_are_refused(offset: int, value: int, words: str) -> None:
    image = bytearray(executable((0, 0x100000, b"text", 4)))
    image[offset] = value
    assert words in Machine().refuses(bytes(image))


def test_a_module_that_does_not_fit_is_named() -> None:
    image = executable((0, 0x100000, b"text", 4))
    message = Machine().refuses(image, [("small", b"x"), ("large one", bytes(1 << 20))])
    assert message.startswith("module large one: it wants 1048576 bytes")


def test_a_command_line_goes_to_the_guest_byte_by_byte() -> None:
    machine = Machine()
    machine.load(executable((0, 0x100000, b"text", 4)), "  two  blanks \udcff ü ")
    (line,) = struct.unpack_from("<I", machine.ram, INFO + 16)
    assert bytes(machine.ram[line : line + 30]).startswith(b"image   two  blanks \xff \xc3\xbc \0")
    with pytest.raises(ImageError, match="zero byte"):
        machine.load(executable((0, 0x100000, b"text", 4)), "a\0b")


def test_a_machine_without_high_memory_loads_low_kernels() -> None:
    machine = Machine(1 << 20)
    assert machine.load(executable((0x20000, 0x20000, b"text", 4), entry=0x20000)) == 0x20000
    assert struct.unpack_from("<3I", machine.ram, INFO)[1:] == (639, 0)
    assert len(firmware_map(1 << 20)) == 4


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_no_altered_image_does_anything_but_load_or_be_refused(data: st.DataObject) -> None:
    """Every word of the headers replaced by anything, the file cut anywhere."""
    image = bytearray(executable((0x100000, 0x100000, b"text" * 9, 99), (0x110000, 0x110000, b"data", 4)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, (52 + 64 + 12) // 2 - 2)) * 2
        value = data.draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFF]) | st.integers(0, 0xFFFFFFFF))
        struct.pack_into("<I", image, at, value)
    cut = data.draw(st.none() | st.integers(0, len(image)))
    message = ""
    try:
        Machine().load(bytes(image[:cut]))
    except ImageError as error:
        message = str(error)
    assert "\n" not in message


def test_an_executable_is_read_without_its_section_headers() -> None:
    image = bytearray(executable((0x100000, 0x100000, b"text", 4), entry=0x100000))
    struct.pack_into("<I", image, 32, 0xFFFFFFF0)
    assert elf.read_executable("x", bytes(image)).segments == [(0x100000, b"text", 4)]
