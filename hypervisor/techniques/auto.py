"""Choosing: ``trap`` for as long as the guest is one that Popek and Goldberg would allow, then ``patch``.

Nobody knows beforehand whether a kernel is free of sensitive, unprivileged instructions: they may be in a driver
that is loaded after an hour. VMware's first monitor (1998) asked the same of each piece of code, whether it could
run directly or had to be translated first. Here the scan that finds the instructions to watch looks for the
sensitive ones from the beginning. The first block that holds one, before it has run for the first time, ends the
time of ``trap``: from then on the machine runs under ``patch``. So none is ever executed unseen, and a guest that has
none pays for none. (``vm.technique`` says which of the two it is, ``vm.hole`` what decided it.)

That is derived state: a guest that is moved begins with ``trap`` where it arrives.
"""

from __future__ import annotations

from hypervisor.techniques.base import register
from hypervisor.techniques.patch import Patch
from hypervisor.techniques.trap import Trap


@register
class Auto(Trap):
    """As under ``trap``, until the scan meets a hole."""

    name = "auto"
    successor = Patch
