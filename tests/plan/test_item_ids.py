"""Test which of millions of planned items count as done. If these break, finished pictures are made
and paid for again, or a run that goes on takes them for done and they are never made."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ace_tasks.plan import item_ids
from ace_tasks.plan.item_ids import ItemIds, MarkedIds


def ids(*numbers: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers]


numbers = st.lists(st.integers(0, 29), max_size=12)


@given(numbers, numbers)
def test_it_is_a_set_of_strings(some_numbers: list[int], other_numbers: list[int]) -> None:
    some, others = ids(*some_numbers), ids(*other_numbers)
    packed = ItemIds(some)
    assert packed == set(some)
    assert (list(packed), len(packed)) == (sorted(set(some)), len(set(some)))
    assert [each in packed for each in others] == [each in some for each in others]
    is_other = [each in others for each in packed]
    assert packed.marked(iter(others)).tolist() == is_other
    assert packed.where(packed.marked(others)) == set(some) & set(others)
    for expected in (0, 1, len(some)):
        assert ItemIds.of_batches(iter([some[:5], [], some[5:]]), expected) == packed


@given(numbers, numbers)
def test_those_that_are_marked_are_a_set_of_strings(
    some_numbers: list[int], other_numbers: list[int]
) -> None:
    some, others = ids(*some_numbers), ids(*other_numbers)
    every = ItemIds(some)
    marked = MarkedIds(every, every.marked(others))
    expected = sorted(set(some) & set(others))
    assert (list(marked), len(marked), bool(marked)) == (expected, len(expected), bool(expected))
    assert marked == set(expected)
    assert [each in marked for each in others] == [each in some for each in others]
    ordered = sorted(set(some))
    positions = [ordered.index(each) if each in expected else -1 for each in some]
    assert marked.positions(some).tolist() == positions
    assert marked.positions_of_starts([each[:16] for each in some]).tolist() == positions


def test_ids_that_come_again_and_again_are_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are moved together in place, part by part."""
    monkeypatch.setattr(item_ids, "_AT_ONCE", 3)
    some = ids(*(n // 4 for n in range(40)), *range(7, 30), 5, 5)
    assert list(ItemIds(some)) == sorted(set(some))


@given(numbers, numbers)
def test_ids_are_found_by_position_and_by_how_they_begin(
    some_numbers: list[int], other_numbers: list[int]
) -> None:
    some, others = ids(*some_numbers), ids(*other_numbers)
    packed, ordered = ItemIds(some), sorted(set(some))
    expected = [ordered.index(each) if each in ordered else -1 for each in others]
    assert packed.positions(others).tolist() == expected
    assert packed.positions_of_starts([each[:16] for each in others]).tolist() == expected
    assert packed.at(np.arange(len(ordered))) == ordered


def test_of_ids_that_begin_alike_the_first_is_found() -> None:
    alike = ["00" * 31 + "01", "00" * 32, "00" * 8 + "ff" * 24]
    assert ItemIds(alike).positions_of_starts(["00" * 8, "ff" * 8]).tolist() == [0, -1]


def test_digests_that_begin_or_end_with_zeros_are_not_taken_for_each_other() -> None:
    odd = ["00" * 32, "00" * 31 + "01", "01" + "00" * 31, "0100" + "00" * 29 + "01", "ff" * 32]
    for n, each in enumerate(odd):
        packed = ItemIds(odd[:n] + odd[n + 1 :])
        assert each not in packed
        assert packed == set(odd) - {each}
        assert each in ItemIds(odd)


def test_what_is_no_item_id_is_in_none() -> None:
    (known,) = ids(1)
    names = [
        "",
        "README",
        known[:-2],
        known + "00",
        f" {known[1:]}",
        known[:-1] + "g",
        "é" * 64,
        known.upper(),
    ]
    packed = ItemIds([known])
    assert not any(each in packed for each in names)
    assert ItemIds([*names, known]) == {known}
    assert packed.marked([*names, known]).tolist() == [True]
    assert packed.marked(names).tolist() == [False]


def test_an_item_takes_little_memory() -> None:
    """Ten million items must fit beside the rest of a flow."""
    count = 100_000
    tracemalloc.start()
    try:
        packed = ItemIds(f"{n:064x}" for n in range(count))
        done = MarkedIds(packed, packed.marked(f"{n:064x}" for n in range(0, count, 2)))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(packed), len(done)) == (count, count / 2)
    assert held < 34 * count
    assert peak < 70 * count + 150 * 65_536 * 2  # and one batch of strings
