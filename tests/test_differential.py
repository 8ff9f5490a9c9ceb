"""Random cases come out under every technique as on QEMU, or otherwise for a reason that has a name.

The method is KEmuFuzzer's (Martignoni et al., "Testing system virtual machines", ISSTA 2010). See case_maker.py for
what a case is, case_runner.py for how one is repeated, known_differences.py for the reasons.
"""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest
from case_ground import LONGEST_CODE
from case_maker import CaseMaker
from case_runner import BATCH, NAMES, Comparison
from known_differences import KNOWN, UNDER_A_GLASS
from port_script import MISSING
from tern_guest import build

from hypervisor.techniques import TECHNIQUES

MILLION = 1_000_000
RARE = [
    20045398,
    20122700,
    20184379,
    20252444,
    30077112,
    30085664,
    30235271,
    30257605,
    30262295,
    30297494,
    30326897,
    40013974,
    40079605,
    40239672,
]
"""Seeds of what a million cases show once or twice: virtual-8086 mode entered on the way, handlers that frames of
events overwrite, faults in handlers of ring 3, stacks that overlap when a call gate copies its parameters.
"""
PAGE = Path(__file__).parents[1] / "tutorials" / "what-traps.md"


@pytest.fixture(scope="module", autouse=True)
def _images():
    build()


def compare(first: int, count: int) -> Comparison:
    comparison = Comparison(list(TECHNIQUES))
    found = []
    for start in range(first, first + count, BATCH):
        found += comparison.batch(start, min(BATCH, first + count - start))
        assert len(found) < 20, "\n".join(map(str, found))
    assert not found, "\n".join(map(str, found))
    return comparison


@pytest.mark.qemu
@pytest.mark.smoke
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_a_few_cases_come_out_as_on_qemu():
    assert set(compare(0, 500).run.values()) == {500}


@pytest.mark.qemu
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
@pytest.mark.parametrize("seed", RARE)
def test_rare_cases_come_out_as_on_qemu_or_for_their_reason(seed):
    compare(seed, 1)


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_thousands_of_cases_come_out_as_on_qemu():
    comparison = compare(0, 6_000)
    assert all(count > 5_900 for count in comparison.run.values())


@pytest.mark.fuzz
@pytest.mark.qemu
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_a_million_fresh_cases_come_out_as_on_qemu():
    compare(random.SystemRandom().randrange(1 << 40), int(os.environ.get("HV_FUZZ_CASES", MILLION)))


def test_a_seed_names_one_case():
    first, again, other = (CaseMaker(seed).make().packed() for seed in (7, 7, 8))
    assert first == again != other


def test_cases_begin_in_every_mode_and_hold_every_kind():
    cases = [CaseMaker(seed).make() for seed in range(1000)]
    assert {(case.cpl, case.virtual_8086) for case in cases} == {*((n, False) for n in range(4)), (3, True)}
    kinds = {kind for case in cases for kind in case.kinds}
    assert {
        "control",
        "flags_image",
        "table_register",
        "look",
        "ring_shown",
        "far",
        "returns",
        "ports",
    } < kinds
    assert max(len(case.code) for case in cases) <= LONGEST_CODE


def test_cases_for_trap_hold_no_hole():
    kinds = {kind for seed in range(1000) for kind in CaseMaker(seed, holes=False).make().kinds}
    assert not kinds & {"flags_image", "table_register", "look", "ring_shown"}


def test_a_result_that_differs_is_noticed():
    case = CaseMaker(3).make()
    comparison = Comparison(["patch"])
    theirs = dict.fromkeys(NAMES, 4)
    found = comparison.judge(case, "patch", theirs | {"eax": 1, "hidden": 5}, theirs)
    assert found is not None
    assert found.fields == {"eax"}
    assert comparison.judge(case, "patch", theirs | {"hidden": 5}, theirs) is None


def test_every_known_difference_is_in_the_tutorials_table():
    rows = re.findall(r"^\| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    assert [why for why in (*(known.reason for known in KNOWN), *UNDER_A_GLASS) if why not in rows] == []
