"""For `make soak` and `make fuzz`: as long as HV_SOAK_SECONDS and HV_FUZZ_SECONDS say, each time other cases."""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Iterator

import pytest

from hypervisor import images
from hypervisor.cli import main as cli
from hypervisor.machine import VirtualMachine
from hypervisor.repl import commands
from hypervisor.repl.prompt import LeavePrompt, Prompt
from hypervisor.repl.registry import REGISTRY
from hypervisor.repl.session import Session

WORDS = [
    "&",
    "esp",
    "gva:esp+4",
    "gpa:0",
    "hpa:0x100000",
    "/4xw",
    "/2i",
    "/s",
    "10",
    "0xffffffff",
    "off",
    "pit",
    "'",
    "~",
]

EXCEPT = {"wait", "save", "load", "migrate"}
"""Commands that may rightly take for ever, or reach outside."""


def seeds(variable: str, default: int) -> Iterator[int]:
    """New seeds until the time is up."""
    end = time.monotonic() + float(os.environ.get(variable, default))
    while time.monotonic() < end:
        yield random.SystemRandom().randrange(1 << 32)


@pytest.mark.soak
def test_a_guest_that_moves_again_and_again_never_notices():
    for seed in seeds("HV_SOAK_SECONDS", 600):
        assert cli.main(["demo", "--seed", str(seed)]) == 0, seed


@pytest.mark.fuzz
def test_nothing_typed_at_the_prompt_brings_it_down():
    assert commands  # the registry is full
    names = [entry.name for entry in REGISTRY if entry.name not in EXCEPT]
    for seed in seeds("HV_FUZZ_SECONDS", 60):
        rng = random.Random(seed)
        prompt = Prompt(Session(VirtualMachine.boot(images.find("tern"), memory=4 << 20)), out=io.StringIO())
        try:
            for _ in range(100):
                line = " ".join([rng.choice(names), *rng.choices(WORDS, k=rng.randrange(4))])
                if line.startswith("step") and "0xffffffff" in line:
                    continue  # it would, for minutes
                if line.split()[0] in ("run", "until") and "&" not in line:
                    line += " &"
                try:
                    prompt.execute(line)
                except LeavePrompt:
                    continue
                except Exception as error:
                    raise AssertionError(f"seed {seed}: {line!r}") from error
        finally:
            prompt.session.close()
