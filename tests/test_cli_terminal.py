"""The console on a terminal: keys go to the guest, the escape comes to us, the terminal comes back."""

from __future__ import annotations

import io
import os
import pty
import termios
import threading
from pathlib import Path

import pytest
from fake_machine import FakeMachine, FakeStop

from hypervisor.cli.terminal import Departure, EscapeDecoder, attach, raw
from hypervisor.repl.prompt import Prompt
from hypervisor.repl.session import Session


def feed(*pieces: bytes) -> list[bytes | str]:
    decoder = EscapeDecoder()
    return [part for piece in pieces for part in decoder.feed(piece)]


@pytest.mark.parametrize(
    ("pieces", "parts"),
    [
        ((b"hello",), [b"hello"]),
        ((b"",), []),
        ((b"a\x01xb",), [b"a", "x", b"b"]),
        ((b"\x01", b"c"), ["c"]),
        ((b"\x01C",), ["c"]),
        ((b"1\x01a2\x01\x013",), [b"1\x012\x013"]),
        ((b"\x03\x1a",), [b"\x03\x1a"]),
        ((b"\x01h\x01x",), ["h", "x"]),
    ],
)
def test_the_escape_is_told_from_keys_for_the_guest(pieces, parts):
    assert feed(*pieces) == parts


def test_how_keys_are_cut_into_pieces_makes_no_difference():
    keys = b"ls\x01a\x01\x01x\x01xmore\x01cend"
    whole = feed(keys)
    for cut in range(len(keys)):
        parts = feed(keys[:cut], keys[cut:])
        assert b"".join(p for p in parts if isinstance(p, bytes)) == b"".join(
            p for p in whole if isinstance(p, bytes)
        )
        assert [p for p in parts if isinstance(p, str)] == [p for p in whole if isinstance(p, str)]


class Desk:
    """A person's end of a terminal, and a guest on the other."""

    def __init__(self, vm: FakeMachine) -> None:
        self.person, self.terminal = pty.openpty()
        self.vm = vm
        self.session = Session(vm)
        self.prompt = Prompt(self.session, out=io.StringIO())
        self.before = termios.tcgetattr(self.terminal)

    def attach(self, keys: bytes = b"") -> Departure:
        if keys:
            # Only once the terminal is raw: before that, its line discipline would act on the keys.
            typing = threading.Thread(target=self._type, args=(keys,))
            typing.start()
        try:
            return attach(self.session, self.prompt, self.terminal, self.terminal)
        finally:
            if keys:
                typing.join()

    def _type(self, keys: bytes) -> None:
        while termios.tcgetattr(self.terminal)[3] & termios.ICANON:
            pass
        os.write(self.person, keys)

    def close(self) -> None:
        self.session.close()
        os.close(self.person)
        os.close(self.terminal)


@pytest.fixture
def desk():
    desk = Desk(FakeMachine())
    yield desk
    desk.close()


def test_ctrl_a_x_leaves_and_the_terminal_is_as_before(desk):
    desk.session.start()
    assert desk.attach(b"\x01x") is Departure.QUIT
    assert termios.tcgetattr(desk.terminal) == desk.before


def test_ctrl_a_c_leaves_the_guest_running(desk):
    desk.session.start()
    assert desk.attach(b"\x01c") is Departure.PROMPT
    assert desk.session.running
    assert termios.tcgetattr(desk.terminal) == desk.before


def test_every_other_key_goes_to_the_guest_unchanged(desk):
    desk.session.start()
    keys = bytes(byte for byte in range(256) if byte != 1)
    assert desk.attach(keys + b"\x01a\x01x") is Departure.QUIT
    assert bytes(desk.vm.console.sent) == keys + b"\x01"


def test_the_end_of_the_guest_leaves_the_console_after_its_last_words(desk):
    desk.vm.script = {250: FakeStop("exit", "3", 3)}
    desk.session.start()
    assert desk.attach() is Departure.ENDED
    assert os.read(desk.person, 100) == b".."
    assert desk.session.last_stop.status == 3


def test_an_error_in_between_restores_the_terminal(desk):
    def broken():
        raise RuntimeError("a defect")

    desk.prompt.new_output = broken
    with pytest.raises(RuntimeError):
        desk.attach()
    assert termios.tcgetattr(desk.terminal) == desk.before


def test_output_is_processed_and_input_is_raw(desk):
    with raw(desk.terminal) as terminal:
        _, oflag, _, lflag, *_ = termios.tcgetattr(desk.terminal)
        assert terminal
        assert oflag & termios.OPOST
        assert not lflag & (termios.ISIG | termios.ECHO | termios.ICANON)
    assert termios.tcgetattr(desk.terminal) == desk.before


def test_a_pipe_goes_to_the_guest_and_its_end_does_not_end_the_guest(desk, tmp_path):
    """Ctrl-A has no meaning in a pipe: a file reaches the guest as it is."""
    source = tmp_path / "keys"
    source.write_bytes(b"ps\n\x01x")
    desk.vm.script = {5000: FakeStop("exit", "0", 0)}
    with source.open("rb") as keys, (tmp_path / "out").open("wb") as out:
        desk.session.start()
        assert attach(desk.session, desk.prompt, keys.fileno(), out.fileno()) is Departure.ENDED
    assert desk.vm.instructions == 5000
    shown = (tmp_path / "out").read_bytes()
    assert shown == bytes(desk.vm.console.output)


def test_input_wakes_a_guest_that_waits_for_nothing_else(desk):
    desk.vm.script = {10: FakeStop("idle"), 20: FakeStop("exit", "0", 0)}
    desk.session.start()
    assert desk.attach(b"go") is Departure.ENDED
    assert bytes(desk.vm.console.sent) == b"go"
    assert desk.vm.instructions == 20


def test_a_guest_that_waits_for_input_after_its_end_is_left(desk):
    desk.vm.script = {10: FakeStop("idle")}
    with Path(os.devnull).open("rb") as nothing:
        desk.session.start()
        assert attach(desk.session, desk.prompt, nothing.fileno(), desk.terminal) is Departure.ENDED


def test_a_terminal_that_is_hung_up_leaves_the_console(desk):
    desk.session.start()
    person, terminal = pty.openpty()

    def hang_up():
        while termios.tcgetattr(terminal)[3] & termios.ICANON:
            pass
        os.close(person)

    hanging_up = threading.Thread(target=hang_up)
    hanging_up.start()
    try:
        assert attach(desk.session, desk.prompt, terminal, desk.terminal) is Departure.QUIT
    finally:
        hanging_up.join()
        os.close(terminal)
