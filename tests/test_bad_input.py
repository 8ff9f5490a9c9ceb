"""Bad input to `hv` is refused in one clear line with the right status: no traceback, no hang, nothing half done."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tern_guest import build

from hypervisor.errors import ImageError, StateError
from hypervisor.machine import Stop, VirtualMachine
from hypervisor.repl import machines
from hypervisor.state import files
from hypervisor.state.codec import crc32c
from hypervisor.state.model import MachineState
from hypervisor.state.sections import HEADER

ROOT = Path(__file__).resolve().parent.parent
HV = [sys.executable, "-m", "hypervisor.cli.main"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
SAVED_AT = 1_500_000
MEMORY = 2 << 20


def hv(*arguments: str | Path, keys: str = "", wrapper: list[str] | None = None, **more: Any) -> Any:
    return subprocess.run(
        [*(wrapper or []), *HV, *map(str, arguments)],
        input=keys,
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT,
        check=False,
        **more,
    )


def refusal(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The one line of a command that refused; nothing else came of it."""
    assert "Traceback" not in done.stderr
    assert done.returncode == status, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("hv: ")
    return line


@pytest.fixture(scope="module")
def tern() -> bytes:
    return build().read_bytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "tern.state"
    with VirtualMachine.boot(build(), memory=MEMORY) as vm:
        vm.console.send(b"count 9 10 &\nsum 9\n")
        vm.run(until=SAVED_AT)
        files.save(vm, path)
    return path


# ------------------------------------------------------------------------------------------ images


def without_header(image: bytes) -> bytes:
    return image.replace(struct.pack("<I", 0x1BADB002), struct.pack("<I", 0x1BADB003))


def patched(image: bytes, offset: int, value: int) -> bytes:
    return image[:offset] + struct.pack("<I", value) + image[offset + 4 :]


IMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda image: b"", "not a Multiboot image"),
    "text": (lambda image: b"to be or not to be\n" * 1000, "not a Multiboot image"),
    "no header": (without_header, "not a Multiboot image"),
    "header without a file format": (lambda image: image[4096:], "neither an ELF file nor"),
    "half": (lambda image: image[: len(image) // 2], "truncated"),
    "last byte missing": (lambda image: image[: max(ends(image)) - 1], "truncated"),
    "64 bits": (lambda image: image[:4] + b"\2" + image[5:], "not for 32-bit x86"),
    "ARM": (lambda image: image[:18] + b"\x28" + image[19:], "not for 32-bit x86"),
    "above the memory": (lambda image: patched(image, 52 + 12, 0x7FFF0000), "have no room"),
    "larger than the memory": (lambda image: patched(image, 52 + 20, 0x7FFF0000), "have no room"),
}


def ends(image: bytes) -> list[int]:
    (count,) = struct.unpack_from("<H", image, 44)
    headers = (struct.unpack_from("<8I", image, 52 + 32 * index) for index in range(count))
    return [offset + size for _, offset, _, _, size, *_ in headers]


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_that_cannot_be_run_is_refused(kind: str, tern: bytes, tmp_path: Path) -> None:
    make, words = IMAGES[kind]
    path = tmp_path / "image"
    path.write_bytes(make(tern))
    line = refusal(hv("run", path))
    assert words in line
    assert "image" in line


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(hv("run", tmp_path / "nosuch"))
    assert "not a regular file" in refusal(hv("run", tmp_path))
    assert "not a regular file" in refusal(hv("run", "/dev/zero"))
    assert "nosuch: No such file" in refusal(hv("run", "tern", "--module", tmp_path / "nosuch"))
    assert "Is a directory" in refusal(hv("run", "tern", "--module", tmp_path))


def test_memory_that_is_too_small_or_odd_is_refused() -> None:
    assert "have no room" in refusal(hv("run", "tern", "--memory", "1m"))
    assert "multiple of 4096" in refusal(hv("run", "tern", "--memory", "4194305"), 2)
    for memory in ("100", "0", "3073m", "4g", "99999g"):
        assert "memory" in refusal(hv("run", "tern", "--memory", memory), 2)


def test_a_module_larger_than_the_memory_is_refused(tmp_path: Path) -> None:
    module = tmp_path / "large"
    module.write_bytes(bytes(3 << 20))
    assert "module large" in refusal(hv("run", "tern", "--memory", "4m", "--module", module))


def mutated(image: bytes, seed: int) -> bytes:
    """A few bytes of the headers altered, or of anything, or the end cut off."""
    chosen = random.Random(seed)
    altered = bytearray(image)
    for _ in range(chosen.choice([1, 1, 2, 8])):
        kind = chosen.random()
        reach = 52 + 3 * 32 if kind < 0.5 else 8192 if kind < 0.75 else len(image)
        at = chosen.randrange(reach)
        altered[at] = chosen.choice([0, 0xFF, altered[at] ^ 1 << chosen.randrange(8), chosen.randrange(256)])
    return bytes(altered[: chosen.randrange(len(image))]) if chosen.random() < 0.1 else bytes(altered)


@pytest.mark.slow
def test_altered_images_are_refused_or_run_and_never_more(tern: bytes, tmp_path: Path) -> None:
    """What still loads is run: a guest with holes in its code must not do more than fail."""
    path = tmp_path / "image"
    refusals = []
    for seed in range(300):
        path.write_bytes(mutated(tern, seed))
        try:
            with VirtualMachine.boot(path, memory=MEMORY) as vm:
                run_a_little(vm)
        except ImageError as error:
            refusals.append(str(error))
    assert 40 < len(refusals) < 260
    assert not [message for message in refusals if "\n" in message]


def run_a_little(vm: VirtualMachine) -> None:
    """A guest that has lost its way may fault at each instruction, and then few are enough."""
    stop = Stop("limit")
    for _ in range(500):
        if stop.reason == "limit" and sum(vm.exit_counts().values()) < 500:
            stop = vm.run(instructions=200)


@pytest.mark.parametrize("seed", range(8))
def test_altered_images_are_refused_or_run_by_the_command(seed: int, tern: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(mutated(tern, 1000 + seed))
    done = hv("run", path, "--memory", "4m", "--until", "3000")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1
    assert done.returncode in (0, 1, 255)


# ------------------------------------------------------------------------------------ saved machines


def other_version(stream: bytes) -> bytes:
    body = HEADER.pack(stream[:8], 7, 1, 0, 0)[:-4]
    return body + struct.pack("<I", crc32c(body)) + stream[HEADER.size :]


def flipped(stream: bytes, at: int) -> bytes:
    return stream[:at] + bytes([stream[at] ^ 0x20]) + stream[at + 1 :]


STREAMS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda stream: b"", ""),
    "no stream": (lambda stream: b"to be or not to be\n" * 1000, ""),
    "cut in its header": (lambda stream: stream[:10], ""),
    "cut in its state": (lambda stream: stream[:500], ""),
    "cut in its RAM": (lambda stream: stream[: len(stream) // 2], ""),
    "without its last byte": (lambda stream: stream[:-1], ""),
    "with more behind it": (lambda stream: stream + b"\0", "more after the end"),
    "other version": (other_version, "format version 7"),
    "flipped in its header": (lambda stream: flipped(stream, 9), ""),
    "flipped in its state": (lambda stream: flipped(stream, 200), ""),
    "flipped in its RAM": (lambda stream: flipped(stream, len(stream) // 2), ""),
    "flipped at its end": (lambda stream: flipped(stream, len(stream) - 1), ""),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_saved_machine_that_is_damaged_is_refused(kind: str, saved: Path, tmp_path: Path) -> None:
    make, words = STREAMS[kind]
    path = tmp_path / "damaged"
    path.write_bytes(make(saved.read_bytes()))
    line = refusal(hv("run", "--load", path))
    assert words in line
    assert str(path) in line


def test_saved_machines_that_are_no_files_are_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path, fifo, Path("/dev/null"), tmp_path / "nosuch"):
        assert str(path) in refusal(hv("run", "--load", path))


def test_a_machine_that_no_processor_could_be_is_refused(saved: Path, tmp_path: Path) -> None:
    state, ram = loaded(saved)
    for change, words in (
        ({"cpu": msgspec.structs.replace(state.cpu, cr0=0)}, "cpu.cr0"),
        ({"cpu": msgspec.structs.replace(state.cpu, eflags=0)}, "cpu.eflags"),
        ({"devices": {**state.devices, "surplus": state.devices["pic"]}}, "surplus"),
        ({"devices": {key: value for key, value in state.devices.items() if key != "pit"}}, "pit"),
        ({"config": msgspec.structs.replace(state.config, devices=("pic",))}, "devices"),
    ):
        path = tmp_path / "odd"
        files.save_state(msgspec.structs.replace(state, **change), memoryview(ram), path)
        assert words in refusal(hv("run", "--load", path))


def loaded(path: Path) -> tuple[MachineState, bytearray]:
    found = files.load(path)
    ram = bytearray(found.state.config.memory)
    found.fill(memoryview(ram))
    return found.state, ram


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every number and flag in plain data."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list | tuple)
        else ()
    )
    for key, item in items:
        yield from leaves(item, (*path, key))
    if isinstance(value, int | bytes):
        yield path


def with_other_leaf(value: Any, path: tuple[Any, ...], chosen: random.Random) -> Any:
    if path:
        parts = dict(value) if isinstance(value, dict) else list(value)
        parts[path[0]] = with_other_leaf(parts[path[0]], path[1:], chosen)
        return parts
    if isinstance(value, bytes):
        return chosen.randbytes(len(value))
    if isinstance(value, bool):
        return not value
    return chosen.choice([0, 1, value ^ 1 << chosen.randrange(32), chosen.getrandbits(32), 0xFFFFFFFF])


def test_a_state_with_any_field_altered_is_refused_or_runs_and_never_more(saved: Path) -> None:
    """The checksums are right here: whoever wrote this file wanted to do harm."""
    state, ram = loaded(saved)
    plain = msgspec.to_builtins(state, builtin_types=(bytes,))
    paths = [path for path in leaves(plain) if path[0] in ("cpu", "clock", "devices")]
    chosen = random.Random(6)
    refusals = []
    for _ in range(300):
        altered = plain
        for path in [chosen.choice(paths) for _ in range(chosen.choice([1, 1, 3]))]:
            altered = with_other_leaf(altered, path, chosen)
        try:
            other = msgspec.convert(altered, MachineState, strict=False)
        except msgspec.ValidationError as error:
            refusals.append(str(error))
            continue
        with VirtualMachine.create(other.config) as vm:
            vm.ram[:] = ram
            try:
                vm.restore(other)
            except StateError as error:
                refusals.append(str(error))
                continue
            run_a_little(vm)
    assert 15 < len(refusals) < 285
    assert not [message for message in refusals if "\n" in message]


# --------------------------------------------------------------------------------------- full disks


def save_script(path: Path) -> str:
    return f"until {SAVED_AT}\nsave {path}\nuntil {SAVED_AT + 1000}\nquit\n"


@pytest.mark.parametrize("before", [b"", b"what was there before"])
def test_a_file_size_limit_leaves_what_was_there_and_a_guest_that_goes_on(
    before: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "guest"
    if before:
        path.write_bytes(before)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*HV, "run", "tern", "--prompt"], stdin=pipe, stdout=pipe, env=ENVIRONMENT
    ) as process:
        assert process.stdin
        assert process.stdout
        start, *rest = save_script(path).splitlines(keepends=True)
        process.stdin.write(start.encode())
        process.stdin.flush()
        while b"[reached" not in process.stdout.readline():
            pass
        # Only now: guest RAM is a file too.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
        out = process.communicate("".join(rest).encode(), 60)[0].decode()
    assert process.returncode == 1
    assert f"error: cannot save to {path}: File too large" in out
    assert f"at instruction {SAVED_AT + 1000:,}]" in out
    assert [file.name for file in tmp_path.iterdir()] == ([path.name] if before else [])
    assert not before or path.read_bytes() == before


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=64k none "$0" || exit 77; "$@"; status=$?; ls -A "$0"; exit $status'
    wrapper = ["unshare", "-rm", "sh", "-c", mount, str(tmp_path)]
    if (
        not shutil.which("unshare")
        or subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("cannot mount a small disk here")
    path = tmp_path / "guest"
    done = hv("run", "tern", "--prompt", keys=save_script(path), wrapper=wrapper)
    assert done.returncode == 1
    assert f"error: cannot save to {path}: No space left on device" in done.stdout
    assert f"at instruction {SAVED_AT + 1000:,}]" in done.stdout
    assert done.stdout.endswith("quit\n")


def test_a_place_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "nosuch" / "guest", tmp_path, Path("/dev/full")):
        done = hv("run", "tern", "--prompt", keys=save_script(path))
        assert done.returncode == 1
        assert f"error: cannot save to {path}" in done.stdout


# -------------------------------------------------------------------------------------------- links


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        assert refusal(hv("run", "--incoming", address)) == f"hv: {address}: the port is in use"


@pytest.mark.parametrize(
    "address", ["tcp:", "tcp:1", "tcp:a:b", "tcp:127.0.0.1:99999", "udp:x:1", "unix:", ""]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    refusal(hv("run", "--incoming", address), 2)


def test_a_migration_to_where_nobody_listens_leaves_the_guest_running_here() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp:127.0.0.1:{server.getsockname()[1]}"
    done = hv("run", "tern", "--prompt", keys=f"until 1000000\nmigrate {address}\nuntil 1001000\nquit\n")
    assert done.returncode == 1
    assert "nobody listens there (connection refused); the guest is still here" in done.stdout
    assert "at instruction 1,001,000]" in done.stdout


@pytest.fixture
def waiting() -> Iterator[subprocess.Popen[bytes]]:
    """A monitor that waits for a guest."""
    command = [*HV, "run", "--incoming", "tcp::0", "--prompt"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=ENVIRONMENT) as process:
        yield process
        process.kill()


def test_a_visitor_that_is_no_monitor_does_not_disturb_one_that_waits(
    waiting: subprocess.Popen[bytes],
) -> None:
    assert waiting.stderr
    address = waiting.stderr.readline().decode().split()[-1]
    port = int(address.rpartition(":")[2])
    for words in (b"GET / HTTP/1.0\r\n\r\n", b"\0" * 100, b"\xff" * 100, b""):
        with socket.create_connection(("127.0.0.1", port)) as visitor, contextlib.suppress(OSError):
            visitor.sendall(words)
            visitor.shutdown(socket.SHUT_WR)
            visitor.recv(1)
    done = hv("run", "tern", "--prompt", keys=f"until 1000000\nmigrate {address}\nquit\n")
    assert done.returncode == 0, done.stdout
    out, errors = waiting.communicate(b"until 1001000\nquit\n", 60)
    assert b"at instruction 1,001,000]" in out
    assert errors == b""


def test_loading_into_the_prompt_what_is_damaged_keeps_the_guest_that_is_there(
    saved: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(saved.read_bytes()[:-1])
    done = hv("run", "tern", "--prompt", keys=f"until 1000000\nload {damaged}\nuntil 1001000\nquit\n")
    assert done.returncode == 1
    assert f"error: {damaged}: " in done.stdout
    assert "at instruction 1,001,000]" in done.stdout


def test_what_was_saved_can_be_loaded(saved: Path) -> None:
    """The counterpart of all the refusals above."""
    with machines.load(saved) as vm:
        assert vm.instructions == SAVED_AT
    done = hv("run", "--load", saved, "--until", str(SAVED_AT + 1000))
    assert done.returncode == 0, done
