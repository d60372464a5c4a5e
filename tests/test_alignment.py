"""What align() finds in two lists, and what its steps do to the old one."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import documents, edited

from pushd.alignment import Alignment, align, increasing
from pushd.equality import differences
from pushd.event import Json
from pushd.work import TooFarApart, TooMuchWork, Work

ENOUGH = 10**9


@st.composite
def lists(draw: st.DrawFn) -> tuple[list[Json], list[Json]]:
    """A list, and what became of it."""
    elements = documents() | st.integers(0, 3)
    old = draw(st.lists(elements, max_size=12))
    new = draw(edited(old) | st.permutations(old) | st.lists(elements, max_size=12))
    return old, new if isinstance(new, list) else [new]


def text(value: Json) -> str:
    return json.dumps(value, sort_keys=True)


def followed(old: list[Json], new: list[Json], alignment: Alignment) -> list[Json]:
    """The old list after all steps and edits."""
    result = list(old)
    for step, index, other in alignment.steps():
        if step == "remove":
            del result[index]
        elif step == "add":
            result.insert(index, new[other])
        else:
            result.insert(other, result.pop(index))
    for place in alignment.edited:
        result[place] = new[place]
    return result


@settings(max_examples=200, deadline=None)
@given(lists())
def test_steps_and_edits_make_the_new_list(pair: tuple[list[Json], list[Json]]) -> None:
    old, new = pair
    alignment = align(old, new, ENOUGH, Work(ENOUGH))
    assert text(followed(old, new, alignment)) == text(new)
    for place, source in alignment.edited.items():
        assert text(old[source]) != text(new[place])


@settings(max_examples=100, deadline=None)
@given(lists())
def test_a_move_may_be_taken_for_a_remove_and_an_add(
    pair: tuple[list[Json], list[Json]],
) -> None:
    old, new = pair
    alignment = align(old, new, ENOUGH, Work(ENOUGH))
    for place in list(alignment.moved)[::2]:
        alignment.part(place)
        alignment.edited.pop(place, None)
    assert text(followed(old, new, alignment)) == text(new)


def test_what_both_lists_begin_and_end_with_takes_no_step() -> None:
    old: list[Json] = ["a", "b", "c", "d"]
    assert list(align(old, ["a", "b", "x", "c", "d"], 9, Work(ENOUGH)).steps()) == [("add", 2, 2)]
    assert list(align(old, ["a", "d"], 9, Work(ENOUGH)).steps()) == [
        ("remove", 2, 0),
        ("remove", 1, 0),
    ]


def test_lists_that_take_more_steps_than_allowed_are_too_far_apart() -> None:
    old, new = [*"abcdefgh"], [*"hgfedcba"]
    assert len(list(align(old, new, 7, Work(ENOUGH)).steps())) == 7
    with pytest.raises(TooFarApart):
        align(old, new, 6, Work(ENOUGH))


def test_work_that_is_used_up_ends_the_search() -> None:
    with pytest.raises(TooMuchWork):
        align([*"abcdefgh"], [*"hgfedcba"], 9, Work(100))


@given(st.lists(st.integers(), unique=True, max_size=7))
def test_no_increasing_subsequence_is_longer_than_the_one_found(numbers: list[int]) -> None:
    found = [numbers[place] for place in increasing(numbers, len(numbers))]
    assert found == sorted(found)
    assert not any(
        list(longer) == sorted(longer) for longer in combinations(numbers, len(found) + 1)
    )


@given(st.permutations(range(30)))
def test_a_subsequence_is_given_up_only_if_it_leaves_out_too_many(numbers: list[int]) -> None:
    left_out = len(numbers) - len(increasing(numbers, len(numbers)))
    assert len(increasing(numbers, left_out)) == len(numbers) - left_out
    if left_out:
        with pytest.raises(TooFarApart):
            increasing(numbers, left_out - 1)


def test_values_differ_where_only_their_types_do() -> None:
    old: list[Json] = [1, 1, True, 0, {"a": [1]}, "x", None] * 30
    new: list[Json] = [1, 1.0, 1, False, {"a": [True]}, "x", None] * 30
    expected = [place for place in range(210) if place % 7 in (1, 2, 3, 4)]
    assert differences(old, new, ENOUGH, Work(ENOUGH)) == expected
    with pytest.raises(TooFarApart):
        differences(old, new, len(expected) - 1, Work(ENOUGH))
