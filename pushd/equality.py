"""
When two JSON values are the same, and where two lists of them differ.

Python says that ``1 == True == 1.0``; to JSON a change of type is a change.
"""

from __future__ import annotations

import msgspec

from pushd.event import Json
from pushd.work import TooFarApart, Work

canonical = msgspec.json.Encoder(order="sorted").encode
"""
The bytes that two JSON values share exactly when they are equal.

They stand in for the values wherever these are compared or looked up: Python says that
``1 == True == 1.0``, has no hashes for lists and dicts, and lets a hostile document choose
integers that all have the same hash.
"""

_PAGE = 64
"""How many pairs are compared at once, as most are equal."""


def equal(old: Json, new: Json) -> bool:
    """
    Whether two JSON values are the same.

    A change of type is a change (``1``, ``1.0`` and ``true`` differ, as do ``0.0`` and
    ``-0.0``), the order of keys is not, the order of a list is. Any depth is fine.
    """
    try:
        return same(old, new)
    except RecursionError:
        return _equal_by_levels(old, new)


def same(old: Json, new: Json) -> bool:
    """As :func:`equal`, but raises RecursionError where values are too deep for C."""
    # `==` tells most different values apart early on; only the bytes know 1 from True. A
    # string is equal to nothing but a string.
    return old == new and (type(old) is str or canonical(old) == canonical(new))


def differences(olds: list[Json], news: list[Json], most: int, work: Work) -> list[int]:
    """
    The places at which two lists of the same length differ.

    Raises TooFarApart if there are more than ``most``, TooMuchWork, and RecursionError as
    :func:`same`.
    """
    found: list[int] = []
    for start in range(0, len(olds), _PAGE):
        old_page, new_page = olds[start : start + _PAGE], news[start : start + _PAGE]
        work.spend(500)
        if same(old_page, new_page):
            continue
        if len(old_page) > 1:
            work.spend(150 * len(old_page))
            # As `same`, which is not called: most of a patch's time is spent here.
            found += [
                start + place
                for place, (old, new) in enumerate(zip(old_page, new_page, strict=True))
                if old != new or (type(old) is not str and canonical(old) != canonical(new))
            ]
        else:
            found.append(start)
        if len(found) > most:
            raise TooFarApart
    return found


def _equal_by_levels(old: Json, new: Json) -> bool:
    """As :func:`equal`, for values that are too deep for C: peel them until they are not."""
    olds, news = [old], [new]
    levels = 1
    while True:
        for _ in range(levels):
            peeled = _peel(olds, news)
            if peeled is None:
                return False
            olds, news = peeled
        try:
            return canonical(olds) == canonical(news)
        except RecursionError:
            levels *= 2


def _peel(olds: list[Json], news: list[Json]) -> tuple[list[Json], list[Json]] | None:
    """What is inside of the containers, level with level; None where the values differ."""
    inner_old: list[Json] = []
    inner_new: list[Json] = []
    for old, new in zip(olds, news, strict=True):
        if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
            inner_old += old.values()
            inner_new += map(new.__getitem__, old)
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            inner_old += old
            inner_new += new
        elif isinstance(old, dict | list) or isinstance(new, dict | list) or not same(old, new):
            return None
    return inner_old, inner_new
