"""When a guest is stopped that is being copied, and how fast it is copied until then."""

from __future__ import annotations

import pytest

from hypervisor.migration.policy import Decision, FixedRounds, PreCopyPolicy
from hypervisor.migration.report import Round

PAGE = 4096


def history(*left: int, downtime: float = 500.0, rate: float = 1000.0) -> list[Round]:
    """Rounds that left so many pages each."""
    return [
        Round(number=n, dirty_pages=pages, dirty_rate=rate, expected_downtime=downtime)
        for n, pages in enumerate(left, 1)
    ]


def test_a_guest_that_writes_little_is_stopped_when_the_rest_is_small() -> None:
    policy = PreCopyPolicy(downtime_limit=0.1)
    assert policy.decide([]).stop is None
    assert policy.decide(history(1000, downtime=101)).stop is None
    assert policy.decide(history(1000, 10, downtime=99)).stop == "the rest is small enough"


def test_rounds_have_an_end() -> None:
    policy = PreCopyPolicy(most_rounds=4)
    assert policy.decide(history(800, 400, 200)).stop is None
    assert policy.decide(history(800, 400, 200, 100)).stop == "4 rounds were made"


def test_rounds_without_progress_end_early() -> None:
    policy = PreCopyPolicy(futile=2, progress=0.9)
    assert policy.decide(history(800, 790)).stop is None
    assert "as fast as it is sent" in str(policy.decide(history(800, 790, 780)).stop)
    # One that brings progress in between makes the count begin anew.
    assert policy.decide(history(800, 790, 400, 390)).stop is None
    assert "as fast as it is sent" in str(policy.decide(history(800, 790, 400, 390, 385)).stop)


def test_the_rate_follows_the_guest_and_ends_the_rounds_at_its_top() -> None:
    """Clark et al., 5.3: the rate at which the guest wrote in the last round, and a constant more."""
    policy = PreCopyPolicy(rate=10e6, increment=5e6, top_rate=60e6)
    assert policy.decide([]) == Decision(rate=10e6)
    assert policy.decide(history(1000, rate=100)) == Decision(rate=10e6)
    assert policy.decide(history(1000, rate=10_000)) == Decision(rate=10_000 * PAGE + 5e6)
    assert "faster than may be sent" in str(policy.decide(history(1000, rate=20_000)).stop)


def test_without_a_rate_the_link_decides() -> None:
    assert PreCopyPolicy().decide(history(1000, rate=1e9)) == Decision()


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_number_of_rounds_can_be_asked_for(number: int) -> None:
    rounds = history(*range(number, 0, -1))
    assert all(FixedRounds(number).decide(rounds[:n]).stop is None for n in range(number))
    assert FixedRounds(number).decide(rounds).stop == f"{number} rounds were asked for"
