"""
Elements of two lists that are the same ones by name, edited or not.

What names an element, an id or a symbol, is not told by anybody: it is seen
from the elements.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TypeAlias, cast

from pushd.equality import canonical
from pushd.event import Json
from pushd.work import Work

Pairs: TypeAlias = "dict[int, int]"
"""The place of an element in the new list: the place of the same element in the old one."""

Loose: TypeAlias = "tuple[list[int], list[int]]"
"""The old and the new places, ascending, of elements that have no partner yet."""

_FIELDS = 16
"""How many fields of an element are looked at."""
_ROUNDS = 3
"""How many fields may name elements: those that one does not tell apart, another may."""
_SAMPLE = 16
"""How many pairs are looked at to see whether a field names its element."""
_ALIKE = 0.5
"""The part of their fields that two elements share for certain to be the same one, edited."""
_Fields: TypeAlias = "dict[int | str, Json]"
_Elements: TypeAlias = "dict[int, _Fields]"
"""The elements at some places, ascending."""


def named(old: list[Json], new: list[Json], loose: Loose, work: Work) -> Pairs:
    """
    Pair elements, edited or not, that a field of theirs names, such as an id or a symbol.

    Which one does is seen from the elements: it is there once in either list, and those that
    it pairs are alike. Rows, too, may be named by a column.
    """
    pairs: Pairs = {}
    for _ in range(_ROUNDS):
        if not all(loose):
            break
        work.spend(2000 + 200 * (len(loose[0]) + len(loose[1])))
        olds = {source: _fields(old[source]) for source in loose[0]}
        news = {place: _fields(new[place]) for place in loose[1]}
        found = _best_named(olds, news, work)
        pairs |= found
        loose = without(loose, found)
        if not found:
            break
    return pairs


def _best_named(olds: _Elements, news: _Elements, work: Work) -> Pairs:
    """The pairs that the most telling field makes; none if there is no such field."""
    best: Pairs = {}
    best_score = 0.0
    first = next(iter(olds.values()))
    for field in [field for field, value in first.items() if isinstance(value, str | int)]:
        work.spend(2000 + 200 * (len(olds) + len(news)))
        sources, places = _by_name(olds, field), _by_name(news, field)
        pairs = {place: sources[name] for name, place in places.items() if name in sources}
        sample = list(pairs.items())[:: max(1, len(pairs) // _SAMPLE)]
        work.spend(2000 * len(sample))
        alike = sum(_likeness(olds[source], news[place]) for place, source in sample)
        score = alike * len(pairs) / max(1, len(sample))
        if score > best_score:
            best, best_score = pairs, score
        if score >= _ALIKE * min(len(olds), len(news)):
            break
    return best


def _fields(element: Json) -> _Fields:
    """The first members of an object, or columns of a row."""
    if isinstance(element, list):
        return dict(enumerate(element[:_FIELDS]))
    if not isinstance(element, dict):
        return {}
    fields = cast("_Fields", element)
    return fields if len(element) <= _FIELDS else dict(islice(fields.items(), _FIELDS))


def _by_name(elements: _Elements, field: int | str) -> dict[bytes, int]:
    """The places of the elements whose field no other has the same."""
    names = [canonical(fields.get(field)) for fields in elements.values()]
    found = once(names, list(elements))
    found.pop(b"null", None)
    return found


def _likeness(old: _Fields, new: _Fields) -> float:
    """Which part of their fields two elements share, roughly: 0 to 1."""
    alike = sum(1 for field, value in old.items() if field in new and new[field] == value)
    return alike / max(len(old), len(new), 1)


def once(names: list[bytes], places: list[int]) -> dict[bytes, int]:
    """The place of every name that is there once."""
    found = dict(zip(names, places, strict=True))
    if len(found) < len(names):
        times = Counter(names)
        found = {name: place for name, place in found.items() if times[name] == 1}
    return found


def without(loose: Loose, pairs: Pairs) -> Loose:
    """The places that are in no pair."""
    sources = set(pairs.values())
    return (
        [source for source in loose[0] if source not in sources],
        [place for place in loose[1] if place not in pairs],
    )
