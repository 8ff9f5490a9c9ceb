"""A session that runs tern's selftest, and what must come of it."""

from __future__ import annotations

import re
from collections import Counter

from tern_guest import Run


def results(run: Run) -> dict[str, str]:
    """Check -> what was printed about it."""
    return dict(re.findall(r"^([a-z-]+): (ok|skipped.*|FAILED.*)$", "\n".join(run.lines), re.MULTILINE))


def assert_passed(run: Run, skipped: Counter[str]) -> None:
    told = results(run)
    assert {name: answer for name, answer in told.items() if answer.startswith("FAILED")} == {}
    assert Counter(answer for answer in told.values() if answer != "ok") == skipped
    assert list(told.values()).count("ok") >= 60
    assert "ALL TESTS PASSED" in run.lines
    assert run.lines[-3:-1] == ["0", "tern$ poweroff"]


SESSION = "selftest\necho $?\npoweroff\n"
WITH_DISK = Counter({"skipped: no fxsr option": 1})
WITHOUT_DISK = Counter({"skipped: no disk": 15, "skipped: no fxsr option": 1})
