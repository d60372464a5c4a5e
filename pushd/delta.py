"""
What takes a client from one JSON document to the next: a patch, the document, or its items.

Here lives what the events of a document topic say. How two lists are aligned is in
``alignment``; how an event is stored or framed is none of this module's business. It knows no
clock: what it spends on a pair of documents is bounded by their size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from operator import itemgetter
from typing import cast

import msgspec

from pushd.alignment import align, increasing
from pushd.equality import canonical, differences, equal
from pushd.errors import SourceError
from pushd.event import Document, Json, Payload
from pushd.work import TooFarApart, TooMuchWork, Work

__all__ = ["changes", "equal", "patch"]

_encode = msgspec.json.encode

_WORK = 3_000_000
"""What any patch may cost, in nanoseconds of an ordinary machine."""
_WORK_PER_BYTE = 20
"""What it may cost besides for each byte of the document."""
_LARGE = 256 * 1024
"""Documents that have more bytes are expected to be worked on in another process, ..."""
_WORK_PER_LARGE_BYTE = 80
"""... where each byte more may cost this."""
_REMOVE = len('{"key":1}')
"""The bytes of an event on an item, at least. In the others the item holds the key's name, too."""
_UPDATE = len('{"key":1,"item":{"":1}}')
_ADD = len('{"key":1,"index":0,"item":{"":1}}')
_SHOWN = 60
"""How much of an item's name a reader is shown."""


def changes(
    old: Json, new: Json, document: Document, *, emit: str, key: str | None = None
) -> tuple[Payload, ...]:
    """
    The events that take a client from one document to the next; none if they are equal.

    A topic's first document is not for here: the caller sends it whole. Nor is text.

    :param document: ``new``, encoded by ``msgspec.json.encode``.
    :param emit: ``patch``, ``snapshot`` or ``items``.
    :param key: for ``items``, the field that tells items apart.
    :returns: one ``patch`` or ``snapshot``; with ``items``, a number of ``remove``, ``update``
        and ``add`` that are to be applied one by one, in their order, or one ``snapshot``
        where that is smaller.
    :raises SourceError: with ``items``, when ``new`` is not a list of objects that each have
        a string or an integer of their own under ``key``.
    """
    whole = (Payload("snapshot", document.data),)
    if emit == "patch":
        data = patch(old, new, len(document.data))
        if data == b"[]":
            return ()
        return whole if data is None else (Payload("patch", data),)
    if emit == "items":
        if key is None:
            raise ValueError("items need a key")
        names = _names(new, key)
        if equal(old, new):
            return ()
        return _items(old, cast("list[Json]", new), names, key, len(document.data)) or whole
    return () if equal(old, new) else whole


def patch(old: Json, new: Json, max_bytes: int) -> bytes | None:
    """
    The JSON Patch (RFC 6902) from one value to another, ``[]`` if they are equal.

    :param max_bytes: the size of ``new`` when encoded.
    :returns: JSON; None if it would not be smaller than ``max_bytes``, or would be too much
        work to find: then the document had better be sent whole.
    """
    writer = _Patch(max_bytes, _work_for(max_bytes))
    try:
        writer.document(old, new)
    except (TooFarApart, TooMuchWork, RecursionError):
        return b"[]" if equal(old, new) else None
    return b"[" + b",".join(writer.operations) + b"]"


def _work_for(size: int) -> Work:
    """The work that a document of so many bytes is worth."""
    extra = max(0, size - _LARGE)
    return Work(_WORK + _WORK_PER_BYTE * (size - extra) + _WORK_PER_LARGE_BYTE * extra)


class _Patch:
    """
    A patch that is being written.

    :ivar operations: each encoded.
    :ivar size: the bytes of the patch so far, brackets and commas included.
    :ivar limit: the size that it has to stay under.
    """

    def __init__(self, limit: int, work: Work) -> None:
        self.operations: list[bytes] = []
        self.size = 1
        self.limit = limit
        self.work = work

    def document(self, old: Json, new: Json) -> None:
        """Change a document into another, or into itself."""
        inside = self._inside(old, new, "", self.limit)
        if not inside and equal(old, new):
            return
        # A large document is not encoded only to see that a small patch is smaller: that would
        # cost as much as all the rest.
        least = 2 * len(new) if isinstance(new, dict | list) else 0
        if not inside or self.size > least:
            whole = _replace("", new)
            if not inside or len(whole) + 2 < self.size:
                self._back_to(0, 1)
                self._append(whole)

    def value(self, old: Json, new: Json, path: str) -> bool:
        """
        Change a value into a different one; returns whether it had to be replaced.

        :param path: the JSON Pointer (RFC 6901) to it.
        """
        whole = _replace(path, new)
        self.work.spend(500 + 4 * len(whole))
        is_container = isinstance(new, dict | list)
        if is_container and self._inside(old, new, path, len(whole) + 1):
            return False
        self._append(whole)
        return True

    def _inside(self, old: Json, new: Json, path: str, room: int) -> bool:
        """Change an object or a list by less than ``room`` bytes; returns whether one could."""
        count, size, limit = len(self.operations), self.size, self.limit
        self.limit = min(limit, size + room)
        try:
            if isinstance(old, dict) and isinstance(new, dict):
                self._object(old, new, path)
            elif isinstance(old, list) and isinstance(new, list):
                self._list(old, new, path)
            else:
                return False
        except TooFarApart:
            self._back_to(count, size)
            return False
        finally:
            self.limit = limit
        return True

    def _most(self, path: str) -> int:
        """How many operations on a container there is room for: {"op":"remove","path":"/0"},"""
        return (self.limit - self.size) // (28 + len(path))

    def _back_to(self, count: int, size: int) -> None:
        del self.operations[count:]
        self.size = size

    def _object(self, old: dict[str, Json], new: dict[str, Json], path: str) -> None:
        self.work.spend(2500 + 50 * (len(old) + len(new)))
        alike = old.keys() == new.keys()
        for key in () if alike else old:
            if key not in new:
                self._write({"op": "remove", "path": _pointer(path, key)})
        shared = list(new) if alike else [key for key in new if key in old]
        olds, news = [old[key] for key in shared], [new[key] for key in shared]
        for place in differences(olds, news, self._most(path), self.work):
            key = shared[place]
            self.value(old[key], new[key], _pointer(path, key))
        for key, value in () if alike else new.items():
            if key not in old:
                self._write({"op": "add", "path": _pointer(path, key), "value": value})

    def _list(self, old: list[Json], new: list[Json], path: str) -> None:
        alignment = align(old, new, self._most(path), self.work)
        mark = len(self.operations)
        for place, source in alignment.edited.items():
            count, size = len(self.operations), self.size
            replaced = self.value(old[source], new[place], f"{path}/{place}")
            if replaced and place in alignment.moved:
                # Not worth moving: the one goes and the other comes.
                self._back_to(count, size)
                alignment.part(place)
        # The paths of the edits are those of the new order, so they come after the steps.
        edits = self.operations[mark:]
        del self.operations[mark:]
        for step, index, place in alignment.steps():
            if step == "remove":
                self._write({"op": "remove", "path": f"{path}/{index}"})
            elif step == "add":
                self._write({"op": "add", "path": f"{path}/{index}", "value": new[place]})
            else:
                target = f"{path}/{place}"
                self._write({"op": "move", "from": f"{path}/{index}", "path": target})
        self.operations += edits

    def _write(self, operation: dict[str, Json]) -> None:
        self._append(_encode(operation))

    def _append(self, operation: bytes) -> None:
        self.work.spend(500 + len(operation))
        self.size += len(operation) + 1
        if self.size >= self.limit:
            raise TooFarApart
        self.operations.append(operation)


def _replace(path: str, value: Json) -> bytes:
    return _encode({"op": "replace", "path": path, "value": value})


def _pointer(path: str, key: str) -> str:
    """The JSON Pointer to a member of an object. ``~`` is escaped first (RFC 6901, 3)."""
    return f"{path}/{key.replace('~', '~0').replace('/', '~1')}"


def _names(document: Json, key: str) -> list[bytes]:
    """The items' names, encoded: ``1`` and ``"1"`` are two. Raises SourceError."""
    if not isinstance(document, list) or not set(map(type, document)) <= {dict}:
        raise SourceError("The answer is not a list of objects, so it has no items.")
    items = cast("list[dict[str, Json]]", document)
    try:
        names = list(map(itemgetter(key), items))
    except KeyError:
        place = next(place for place, item in enumerate(items, 1) if key not in item)
        raise SourceError(f'Item {place} of the answer has no "{key}".') from None
    if not set(map(type, names)) <= {str, int}:
        place = next(p for p, name in enumerate(names, 1) if type(name) not in (str, int))
        reason = f'The "{key}" of item {place} of the answer is neither a string nor an integer.'
        raise SourceError(reason)
    encoded = list(map(canonical, names))
    if len(set(encoded)) < len(encoded):
        twice, _ = Counter(encoded).most_common(1)[0]
        shown = twice.decode()
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        raise SourceError(f'The answer has two items whose "{key}" is {shown}.')
    return encoded


def _items(
    old: Json, new: list[Json], names: list[bytes], key: str, room: int
) -> tuple[Payload, ...] | None:
    """The events on items; None if they would weigh ``room`` bytes or more."""
    events: list[Payload] = []
    size = 0
    try:
        for event in _item_events(old, new, names, key, room):
            events.append(event)
            size += len(event.data)
            if size >= room:
                return None
    except (SourceError, TooFarApart, TooMuchWork, RecursionError):
        return None  # a SourceError: what there was could not be taken for items
    return tuple(events)


def _item_events(
    old: Json, new: list[Json], names: list[bytes], key: str, room: int
) -> Iterator[Payload]:
    """The removes, then the updates, then the adds, each by ascending place."""
    old_names = _names(old, key)
    old = cast("list[Json]", old)
    known = dict(zip(old_names, range(len(old_names)), strict=True))
    places = [place for place, name in enumerate(names) if name in known]
    sources = [known[names[place]] for place in places]
    # Of the items that are in both, as many as can stay in their order do.
    add = _ADD + len(key)
    order = increasing(sources, room // (_REMOVE + add))
    if len(order) < len(places):
        places = [places[rank] for rank in order]
        sources = [sources[rank] for rank in order]
    gone, came = _others(sources, len(old)), _others(places, len(new))
    if _REMOVE * len(gone) + add * len(came) >= room:
        raise TooFarApart
    for source in gone:
        yield _event("remove", old_names[source])
    olds, news = [old[source] for source in sources], [new[place] for place in places]
    for rank in differences(olds, news, room // (_UPDATE + len(key)), _work_for(room)):
        yield _event("update", names[places[rank]], item=new[places[rank]])
    for place in came:
        yield _event("add", names[place], index=place, item=new[place])


def _others(places: list[int], length: int) -> list[int]:
    """The places of a list of that length that are not among those given."""
    known = set(places)
    return [place for place in range(length) if place not in known]


def _event(kind: str, name: bytes, **members: Json) -> Payload:
    return Payload(kind, _encode({"key": msgspec.Raw(name), **members}))
