"""Commands about the conversation itself."""

from __future__ import annotations

from hypervisor.repl.kinds import Text, Word
from hypervisor.repl.prompt import Ending, LeavePrompt, Prompt
from hypervisor.repl.registry import REGISTRY, command

_ESCAPES = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\e": "\x1b", "\\\\": "\\"}


@command("help", "?", "h")
def help_(prompt: Prompt, name: Word = "") -> str:
    """List the commands, or explain one."""
    if not name:
        width = max(len(entry.usage) for entry in REGISTRY)
        lines = [f"{entry.usage:<{width}}  {entry.summary}" for entry in REGISTRY]
        return "\n".join([*lines, "", "Beginnings of names are enough; `help NAME` tells more."])
    entry = REGISTRY.find(name)
    lines = [f"{entry.usage}" + (f"    (also: {', '.join(entry.aliases)})" if entry.aliases else "")]
    lines += ["", entry.summary]
    lines += ["", entry.text] if entry.text else []
    labels = {parameter.kind.label: parameter.kind.describe for parameter in entry.parameters}
    described = [f"  {label:<14} {text}" for label, text in labels.items() if text != label]
    return "\n".join([*lines, "", *described] if described else lines)


@command("quit", "q", "exit")
def quit_(prompt: Prompt) -> str:
    """Leave; the guest ends with this process. `save` or `migrate` it first to keep it."""
    raise LeavePrompt(Ending.QUIT)


@command("console")
def console(prompt: Prompt, text: Text = "") -> str:
    r"""Go to the guest's console (Ctrl-A c comes back), or send it a line of TEXT.

    TEXT is followed by a line end, as if typed; \n \r \t \e and \\ are understood. Off a terminal,
    without TEXT: show what the guest has printed since last time.
    """
    if text:
        prompt.session.vm.console.send((unescape(text) + "\n").encode())
        return ""
    if prompt.interactive and prompt.session.present:
        raise LeavePrompt(Ending.CONSOLE)
    return prompt.new_output().decode(errors="replace")


def unescape(text: str) -> str:
    """Replace the escapes that `console` knows; other backslashes stay."""
    out, position = [], 0
    while position < len(text):
        pair = text[position : position + 2]
        out.append(_ESCAPES.get(pair, text[position]))
        position += 2 if pair in _ESCAPES else 1
    return "".join(out)
