"""
JSON documents for hypothesis: any, and any that came out of another by a few edits.

They are drawn to be nasty where JSON is: ``1``, ``1.0`` and ``true``, keys that look like
indexes or need escaping in a JSON Pointer, integers past 64 bits. Every document can be encoded
by msgspec; none holds NaN, an infinity or a lone surrogate, which JSON has no words for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from pushd.event import Json

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)

KEYS: st.SearchStrategy[str] = (
    st.sampled_from(["", "a", "b", "id", "0", "1", "01", "-", "~", "/", "~0", "~1", "a/b", "é"])
    | _TEXT
)
"""Names of members."""

SCALARS: st.SearchStrategy[Json] = (
    st.sampled_from([None, True, False, 0, 1, 0.0, 1.0, -0.0, "", "1", "a", 2**53, 2**64])
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT
)
"""Values without others inside."""


def documents() -> st.SearchStrategy[Json]:
    """Any JSON value; lists and objects of like elements are more frequent than by chance."""
    return st.recursive(
        SCALARS,
        lambda inner: (
            st.lists(inner, max_size=8)
            | st.dictionaries(KEYS, inner, max_size=5)
            | items("id", inner)
        ),
        max_leaves=25,
    )


def items(key: str, values: st.SearchStrategy[Json] = SCALARS) -> st.SearchStrategy[Json]:
    """A list of objects that each have a string or an integer of their own under ``key``."""
    names = st.integers(0, 20) | st.sampled_from(["0", "1", "a", "b", "~", ""])
    members = st.fixed_dictionaries({key: names}, optional={"b": values, "c": values})
    return st.lists(members, max_size=10, unique_by=lambda item: repr(item[key]))


@st.composite
def edited(draw: st.DrawFn, document: Json) -> Json:
    """The document after a few edits, somewhere inside; ``document`` itself is left alone."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 4))):
        document = _edit(draw, document)
    return document


def _edit(draw: st.DrawFn, value: Any) -> Json:
    if isinstance(value, list | dict) and value and draw(st.booleans()):
        places = list(value) if isinstance(value, dict) else range(len(value))
        place = draw(st.sampled_from(places))
        value[place] = _edit(draw, value[place])
        return value  # type: ignore[no-any-return]
    if isinstance(value, list):
        return draw(st.sampled_from(_LIST_EDITS))(draw, value)
    if isinstance(value, dict):
        return draw(st.sampled_from(_OBJECT_EDITS))(draw, value)
    return draw(st.sampled_from(_spellings(value)) | documents())


def _spellings(value: Json) -> list[Json]:
    """What Python takes for equal, or a reader for the same."""
    if isinstance(value, bool | int | float) and abs(value) < 2**53 and value == int(value):
        return [int(value), float(value), bool(value), str(int(value)), -float(value)]
    return [value, [value], {"": value}, None]


def _insert(draw: st.DrawFn, value: list[Json]) -> Json:
    new = st.sampled_from(value) | documents() if value else documents()
    value.insert(draw(st.integers(0, len(value))), copy.deepcopy(draw(new)))
    return value


def _remove(draw: st.DrawFn, value: list[Json]) -> Json:
    if value:
        del value[draw(st.integers(0, len(value) - 1))]
    return value


def _move(draw: st.DrawFn, value: list[Json]) -> Json:
    if value:
        moved = value.pop(draw(st.integers(0, len(value) - 1)))
        value.insert(draw(st.integers(0, len(value))), moved)
    return value


def _shuffle(draw: st.DrawFn, value: list[Json]) -> Json:
    return draw(st.permutations(value))


def _set(draw: st.DrawFn, value: dict[str, Json]) -> Json:
    value[draw(KEYS)] = draw(documents())
    return value


def _rename(draw: st.DrawFn, value: dict[str, Json]) -> Json:
    if value:
        value[draw(KEYS)] = value.pop(draw(st.sampled_from(list(value))))
    return value


def _reorder(draw: st.DrawFn, value: dict[str, Json]) -> Json:
    return dict(draw(st.permutations(list(value.items()))))


def _unset(draw: st.DrawFn, value: dict[str, Json]) -> Json:
    if value:
        del value[draw(st.sampled_from(list(value)))]
    return value


def _replace(draw: st.DrawFn, _: Json) -> Json:
    return draw(documents())


_LIST_EDITS: list[Callable[[st.DrawFn, Any], Json]] = [
    _insert,
    _remove,
    _move,
    _shuffle,
    _replace,
]
_OBJECT_EDITS: list[Callable[[st.DrawFn, Any], Json]] = [
    _set,
    _rename,
    _reorder,
    _unset,
    _replace,
]
