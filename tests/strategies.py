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
_KEYS = _TEXT | st.sampled_from(
    ["", "a", "b", "id", "0", "1", "01", "-", "~", "/", "~0", "~1", "a/b", "é"]
)
_SCALARS = (
    st.sampled_from([None, True, False, 0, 1, 0.0, 1.0, -0.0, "", "1", "a", 2**53, 2**64])
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT
)


# Composites, as strategies that are built of many others have names as long as a page.


@st.composite
def keys(draw: st.DrawFn) -> str:
    """The name of a member."""
    return draw(_KEYS)


@st.composite
def scalars(draw: st.DrawFn) -> Json:
    """A value without others inside."""
    return draw(_SCALARS)


@st.composite
def documents(draw: st.DrawFn) -> Json:
    """Any JSON value; lists of like objects are more frequent than by chance."""
    return draw(_DOCUMENTS)


@st.composite
def items(draw: st.DrawFn, key: str) -> list[dict[str, Json]]:
    """A list of objects that each have a string or an integer of their own under ``key``."""
    names = st.integers(0, 20) | st.sampled_from(["0", "1", "a", "b", "~", ""])
    found = draw(st.lists(names, max_size=10, unique_by=repr))
    members = st.dictionaries(st.sampled_from("bc"), scalars())
    return [{key: name, **draw(members)} for name in found]


_DOCUMENTS: st.SearchStrategy[Json] = st.recursive(
    scalars(),
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(keys(), inner, max_size=5) | items("id")
    ),
    max_leaves=12,
)


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
    value[draw(_KEYS)] = draw(documents())
    return value


def _rename(draw: st.DrawFn, value: dict[str, Json]) -> Json:
    if value:
        value[draw(_KEYS)] = value.pop(draw(st.sampled_from(list(value))))
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
