"""Marks of pages: every operation against the same said with sets of page numbers."""

from __future__ import annotations

import random

import pytest

from hypervisor.marks import both, either, from_bitmap, how_many, to_bitmap, without


def pages(marks: bytes | bytearray) -> set[int]:
    return {page for page, mark in enumerate(marks) if mark}


@pytest.mark.parametrize("count", [0, 1, 7, 8, 63, 64, 65, 1000])
def test_operations_are_those_of_sets(count):
    chance = random.Random(count)
    one, other = (bytes(chance.choice((0, 0, 1, 255)) for _ in range(count)) for _ in range(2))
    for operation, expected in (
        (either, pages(one) | pages(other)),
        (both, pages(one) & pages(other)),
        (without, pages(one) - pages(other)),
    ):
        found = operation(one, memoryview(other))
        assert isinstance(found, bytearray)
        assert len(found) == count
        assert pages(found) == expected
    assert how_many(one) == len(pages(one))
    assert pages(from_bitmap(to_bitmap(one), count)) == pages(one)


@pytest.mark.parametrize("operation", [either, both, without])
def test_marks_of_different_machines_do_not_mix(operation):
    with pytest.raises(ValueError, match="marks of 2 pages and of 3"):
        operation(bytes(2), bytes(3))
