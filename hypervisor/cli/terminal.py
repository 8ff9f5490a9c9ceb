"""The guest's console on this terminal: every key goes to the guest, but for one escape.

Ctrl-A begins a command to us, as in QEMU: x leaves, c goes to the prompt, a sends Ctrl-A itself, h
lists these. Without a terminal the bytes of a pipe or file go to the guest as they are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import termios
import time
from collections.abc import Iterator
from enum import Enum
from typing import Any

from hypervisor.repl.prompt import Prompt
from hypervisor.repl.session import Session

ESCAPE = 0x01
HELP = b"\r\nCtrl-A x  leave\r\nCtrl-A c  go to the prompt (the guest runs on)\r\nCtrl-A a  send Ctrl-A\r\n"

_POLL = 0.02
"""Seconds between two looks for output, which the guest leaves in a log: 50 looks are fluent to people."""

_SILENCE = 1.0
"""Seconds that piped input waits for a guest that says nothing."""

_CHUNK = 4096


class Departure(Enum):
    """Why the console was left."""

    ENDED = "the guest stopped"
    QUIT = "Ctrl-A x"
    PROMPT = "Ctrl-A c"


class EscapeDecoder:
    """Tells what is meant for the guest from what is meant for us, in any division into pieces."""

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, data: bytes) -> Iterator[bytes | str]:
        """Bytes for the guest, or the letter of a command to us, in order."""
        for_guest = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                if byte in (ESCAPE, ord("a")):
                    for_guest.append(ESCAPE)
                    continue
                if for_guest:
                    yield bytes(for_guest)
                    for_guest.clear()
                yield chr(byte).lower()
            elif byte == ESCAPE:
                self._escaped = True
            else:
                for_guest.append(byte)
        if for_guest:
            yield bytes(for_guest)


@contextlib.contextmanager
def raw(descriptor: int) -> Iterator[bool]:
    """Keys arrive one by one, unechoed, Ctrl-C included; the old settings come back whatever happens.

    Yields whether ``descriptor`` is a terminal; if not, nothing is changed.
    """
    if not os.isatty(descriptor):
        yield False
        return
    before = termios.tcgetattr(descriptor)
    try:
        iflag, oflag, cflag, lflag, ispeed, ospeed, cc = termios.tcgetattr(descriptor)
        iflag &= ~(
            termios.BRKINT | termios.ICRNL | termios.INLCR | termios.IGNCR | termios.ISTRIP | termios.IXON
        )
        # Output keeps its processing: a guest that ends its lines with a bare line feed stays readable.
        lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
        cc[termios.VMIN], cc[termios.VTIME] = 1, 0
        termios.tcsetattr(descriptor, termios.TCSADRAIN, [iflag, oflag, cflag, lflag, ispeed, ospeed, cc])
        yield True
    finally:
        # Fails only where the terminal is gone, and its settings with it.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def attach(session: Session[Any], prompt: Prompt, stdin: int = 0, stdout: int = 1) -> Departure:
    """Show a running guest's console until it stops or somebody leaves it. The guest is not stopped.

    ``prompt`` knows which output was already shown. At the end of piped input the guest runs on. Piped input does not
    begin before the guest has said something, or nothing for a second: a kernel that starts up clears its receiver.
    """
    decoder = EscapeDecoder()
    patience = time.monotonic() + _SILENCE
    with raw(stdin) as terminal, selectors.PollSelector() as selector:
        # poll, not epoll: regular files can be standard input, and epoll refuses them.
        selector.register(stdin, selectors.EVENT_READ)
        listening = True
        while True:
            # In this order: what the guest printed before it stopped is seen after it was seen stopped.
            running = session.running
            write_all(stdout, prompt.new_output())
            # A guest that waits for input, and for nothing else, has not ended while there may be some.
            waiting = not running and listening and is_idle(session)
            if not running and not waiting:
                return Departure.ENDED
            if not listening:
                session.wait(_POLL)
                continue
            if not (terminal or waiting or session.vm.console.output or time.monotonic() > patience):
                session.wait(_POLL)
                continue
            if not selector.select(None if waiting else _POLL):
                continue
            data = _read(stdin)
            if not data:
                if terminal:  # it was hung up: nobody is there
                    return Departure.QUIT
                selector.unregister(stdin)
                listening = False
                continue
            for part in decoder.feed(data) if terminal else (data,):
                if isinstance(part, bytes):
                    session.vm.console.send(part)
                    if is_idle(session):
                        session.start()
                elif part == "x":
                    return Departure.QUIT
                elif part == "c":
                    return Departure.PROMPT
                elif part in "h?":
                    write_all(stdout, HELP)


def _read(descriptor: int) -> bytes:
    """What there is to read; nothing at the end, which a terminal that was hung up tells by EIO."""
    try:
        return os.read(descriptor, _CHUNK)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def is_idle(session: Session[Any]) -> bool:
    """Does the guest stand still because only input would wake it?"""
    return not session.running and session.last_stop is not None and session.last_stop.reason == "idle"


def write_all(descriptor: int, data: bytes) -> None:
    """Write, however little a slow terminal takes at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
