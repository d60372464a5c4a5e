"""
What takes a client from one JSON document to the next: a patch, the document, or its items.

Here lives what the events of a document topic say. How two lists are aligned is in
``alignment``; how an event is stored or framed is none of this module's business. It knows no
clock: what it spends on a pair of documents is bounded by their size.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from pushd.alignment import (
    TooMuchWork,
    Work,
    align,
    differences,
    equal,
    increasing,
    same,
)
from pushd.errors import SourceError
from pushd.event import Document, Json, Payload

__all__ = ["changes", "equal", "patch"]

_encode = msgspec.json.encode

_WORK = 8_000_000
"""What any patch may cost, in nanoseconds of an ordinary machine,"""
_WORK_PER_BYTE = 12
"""and what it may cost besides for each byte of the document."""


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
    if emit == "items":
        if key is None:
            raise ValueError("items need a key")
        names = _names(new, key)
        return () if equal(old, new) else _items(old, new, key, names, document) or whole
    if emit == "snapshot":
        return () if equal(old, new) else whole
    data = patch(old, new, len(document.data))
    if data == b"[]":
        return ()
    return whole if data is None else (Payload("patch", data),)


def patch(old: Json, new: Json, max_bytes: int) -> bytes | None:
    """
    The JSON Patch (RFC 6902) from one value to another, ``[]`` if they are equal.

    :param max_bytes: the size of ``new`` when encoded.
    :returns: JSON; None if it would not be smaller than ``max_bytes``, or would be too much
        work to find: then the document had better be sent whole.
    """
    if equal(old, new):
        return b"[]"
    writer = _Patch(max_bytes, Work(_WORK + _WORK_PER_BYTE * max_bytes))
    try:
        writer.value(old, new, "")
    except (_TooLarge, TooMuchWork, RecursionError):
        return None
    return b"[" + b",".join(writer.operations) + b"]"


class _TooLarge(Exception):
    """The operations weigh more than what they would change."""


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

    def value(self, old: Json, new: Json, path: str) -> bool:
        """
        Change a value into a different one; returns whether it had to be replaced.

        :param path: the JSON Pointer (RFC 6901) to it.
        """
        whole = _encode({"op": "replace", "path": path, "value": new})
        self.work.spend(1500 + 4 * len(whole))
        # A list or an object is changed by operations inside of it, unless these turn out to
        # weigh more than a replacement would.
        mark, size, limit = len(self.operations), self.size, self.limit
        self.limit = min(limit, size + len(whole) + 1)
        try:
            if isinstance(old, dict) and isinstance(new, dict):
                self._object(old, new, path)
                return False
            if isinstance(old, list) and isinstance(new, list):
                self._list(old, new, path)
                return False
        except _TooLarge:
            del self.operations[mark:]
            self.size = size
        finally:
            self.limit = limit
        self._append(whole)
        return True

    def _object(self, old: dict[str, Json], new: dict[str, Json], path: str) -> None:
        self.work.spend(100 * (len(old) + len(new)))
        for key in old:
            if key not in new:
                self._write({"op": "remove", "path": _pointer(path, key)})
        shared = [key for key in new if key in old]
        for place in differences([old[key] for key in shared], [new[key] for key in shared]):
            key = shared[place]
            self.value(old[key], new[key], _pointer(path, key))
        for key, value in new.items():
            if key not in old:
                self._write({"op": "add", "path": _pointer(path, key), "value": value})

    def _list(self, old: list[Json], new: list[Json], path: str) -> None:
        alignment = align(old, new, self.work)
        mark = len(self.operations)
        for place, source in alignment.edited.items():
            before, size = len(self.operations), self.size
            replaced = self.value(old[source], new[place], f"{path}/{place}")
            if replaced and place in alignment.moved:
                # Not worth moving: the one goes and the other comes.
                del self.operations[before:]
                self.size = size
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
        self.work.spend(1000 + len(operation))
        self.size += len(operation) + 1
        if self.size >= self.limit:
            raise _TooLarge
        self.operations.append(operation)


def _pointer(path: str, key: str) -> str:
    """The JSON Pointer to a member of an object. ``~`` is escaped first (RFC 6901, 3)."""
    return f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
