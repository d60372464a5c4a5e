"""Documents that can tell whether they are whole: each has a version, and a sum over the rest."""

from __future__ import annotations

import json
import random
import zlib
from typing import Any

import jsonpatch

Json = Any


class WrongError(Exception):
    """This is no document that the upstream ever served."""


def checksum(value: Json) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def sealed(document: dict[str, Json]) -> dict[str, Json]:
    return {**document, "sum": checksum(document)}


def version(document: Json) -> int:
    """Raises WrongError."""
    if isinstance(document, str):
        return _version_of_text(document)
    if isinstance(document, list):
        return _version_of_items(document)
    rest = {name: value for name, value in document.items() if name != "sum"}
    if checksum(rest) != document.get("sum"):
        raise WrongError(f"not as it was sealed: {str(document)[:300]}")
    return int(document["version"])


def _version_of_text(text: str) -> int:
    body, _, found = text.rpartition("\n")
    if found != f"sum {checksum(body)}":
        raise WrongError(f"not as it was sealed: {text[:300]}")
    return int(body.split()[1])


def _version_of_items(items: list[Json]) -> int:
    (seal,) = [item for item in items if item["key"] == "seal"]
    if seal["sum"] != checksum([item for item in items if item is not seal]):
        raise WrongError(f"not as it was sealed: {str(items)[:300]}")
    return int(seal["version"])


class Board:
    """A document that changes in a few places at a time."""

    def __init__(self, rows: int, text: int = 0) -> None:
        self.version = 0
        self._rows = {f"row {n}": {"value": n, "text": "x" * text} for n in range(rows)}

    def next(self) -> Json:
        self.version += 1
        for _ in range(3):
            name = random.choice(list(self._rows))
            self._rows[name] = {**self._rows[name], "value": random.randrange(10**6)}
        if self.version % 7 == 0:
            gone = random.choice(list(self._rows))
            self._rows[f"row {self.version} / é~"] = self._rows.pop(gone)
        return sealed({"version": self.version, "rows": dict(self._rows)})


class Items:
    """A list whose items come, go, move and change."""

    def __init__(self) -> None:
        self.version = 0
        self._items = [{"key": f"item {n}", "value": n} for n in range(20)]

    def next(self) -> Json:
        self.version += 1
        chosen = random.randrange(len(self._items))
        self._items[chosen] = {**self._items[chosen], "value": random.random()}
        if self.version % 3 == 0:
            moved = self._items.pop(random.randrange(len(self._items)))
            self._items.insert(random.randrange(len(self._items)), moved)
        if self.version % 5 == 0:
            del self._items[random.randrange(len(self._items))]
            new = {"key": f"item of {self.version}", "value": 0}
            self._items.insert(random.randrange(len(self._items)), new)
        seal = {"key": "seal", "version": self.version, "sum": checksum(self._items)}
        return [seal, *self._items]


class Text:
    """Text of several lines."""

    def __init__(self) -> None:
        self.version = 0

    def next(self) -> str:
        self.version += 1
        lines = [f"version {self.version}", "", "\u2028 é ", *("x" * n for n in range(9))]
        body = "\n".join(lines)
        return f"{body}\nsum {checksum(body)}"


class Built:
    """
    A document as a reader has built it. What many readers do alike is done once.

    :ivar version: None while there is none.
    """

    _patched: dict[tuple[int, str, str], tuple[int, Json]] = {}  # noqa: RUF012  # shared by all

    def __init__(self) -> None:
        self.version: int | None = None
        self.document: Json = None

    def take(self, topic: str, name: str, data: Json, text: str) -> None:
        """
        An event.

        :param text: what `data` was read from.
        :raises WrongError: there cannot have been such an event.
        """
        if name in ("add", "update", "remove"):
            self._take_item(name, data)
            return
        # Of two snapshots there is no older one that one of them depends on.
        before = -1 if name == "snapshot" else self.version
        if before is None:
            raise WrongError(f"{topic}: {name} before there is a document")
        known = self._patched.get((before, topic, text))
        if known is None:
            if len(self._patched) > 2000:
                self._patched.clear()
            known = self._patched[before, topic, text] = self._result(name, data)
        self._go_on(*known)

    def _result(self, name: str, data: Json) -> tuple[int, Json]:
        if name == "patch":
            try:
                data = jsonpatch.apply_patch(self.document, data)
            except Exception as error:
                raise WrongError(f"patch does not fit: {error!r}") from error
        elif name != "snapshot":
            raise WrongError(f"an event {name!r}")
        return version(data), data

    def _go_on(self, version: int, document: Json) -> None:
        if self.version is not None and version < self.version:
            raise WrongError(f"from version {self.version} back to {version}")
        self.version, self.document = version, document

    def _take_item(self, name: str, data: Json) -> None:
        items = list(self.document)
        places = [n for n, item in enumerate(items) if item["key"] == data["key"]]
        if len(places) != (0 if name == "add" else 1):
            raise WrongError(f"{name} of {data['key']!r}, which is there {len(places)} times")
        if name == "add":
            items.insert(data["index"], data["item"])
        elif name == "update":
            items[places[0]] = data["item"]
        else:
            del items[places[0]]
        self.document = items
        seal = [item for item in items if item["key"] == "seal"]
        if seal:
            # In the middle of a change the sum is not right yet; in the end it has to be.
            self._go_on(seal[0]["version"], items)
