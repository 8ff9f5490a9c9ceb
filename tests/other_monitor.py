"""A monitor in a process of its own, that tests tell what to do: one JSON object per line, each way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import hypervisor

HERE = Path(__file__).resolve()
ROOT = HERE.parent.parent


class OtherMonitor:
    """The test's end. ``tell`` asks for something, ``hear`` waits for the answer, ``ask`` does both."""

    def __init__(self, *, pure: bool = False) -> None:
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{HERE.parent}"}
        environment |= {"HV_PURE": "1" if pure else "0"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.compiled: bool = self.hear()["compiled"]

    def tell(self, **request: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"the other monitor ended with status {self._process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        self.tell(**request)
        return self.hear()

    def expect(self) -> str:
        """Make it wait for a guest; returns the address. ``hear`` tells when the guest is there."""
        address: str = self.ask(do="receive")["address"]
        return address

    def kill(self) -> None:
        """It is gone from one instruction to the next."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def serve() -> None:
    """The other end: do what each line of standard input says."""
    from scripted_guest import advance, boot

    from hypervisor import _source
    from hypervisor.machine import VirtualMachine
    from hypervisor.migration import Listener, send
    from hypervisor.monitor import loop

    def answer(**facts: Any) -> None:
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()

    answer(compiled=_source.form_of(loop) == "compiled")
    vm: VirtualMachine | None = None
    for line in sys.stdin:
        request = json.loads(line)
        match request["do"]:
            case "boot":
                vm = boot()
            case "receive":
                with Listener("tcp::0") as listener:
                    answer(address=str(listener.address))
                    vm = listener.receive(VirtualMachine.create, timeout=60)
            case "advance":
                assert vm is not None
                advance(vm, request["to"])
            case "send":
                assert vm is not None
                send(vm, request["to"])
                vm.close()
                vm = None
        if vm is None:
            answer()
        else:
            console = bytes(vm.console.output).decode("latin-1")
            answer(digest=vm.digest(), instructions=vm.instructions, console=console, epoch=vm.epoch)


if __name__ == "__main__":
    assert Path(hypervisor.__file__).is_relative_to(ROOT)
    serve()
