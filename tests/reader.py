"""
A client as the standard wants it: parses an event stream (WHATWG HTML, section
9.2.6), keeps the last event id, and holds what a page would hold.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import jsonpatch


@dataclass
class Received:
    """One dispatched event."""

    name: str
    data: str
    id: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclass
class Parser:
    """An event stream parser; `last_id` outlives connections, the rest does not."""

    last_id: str = ""
    retry: int | None = None
    comments: int = 0
    _buffer: bytes = b""
    _name: str = ""
    _data: list[str] = field(default_factory=list)
    _id: str | None = None

    def drop(self) -> None:
        """The connection is lost: an event that is not complete is discarded."""
        self._buffer, self._name, self._data, self._id = b"", "", [], None

    def feed(self, data: bytes) -> list[Received]:
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        received = []
        for line in lines:
            event = self._line(line.decode())
            if event is not None:
                received.append(event)
        return received

    def _line(self, line: str) -> Received | None:
        if not line:
            return self._dispatch()
        if line.startswith(":"):
            self.comments += 1
            return None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isdecimal():
            self.retry = int(value)
        return None

    def _dispatch(self) -> Received | None:
        if self._id is not None:
            self.last_id = self._id
        data, name = self._data, self._name
        self._data, self._name = [], ""
        if not data:
            return None
        return Received(name or "message", "\n".join(data), self.last_id)


class Page:
    """What a page makes of the events of one topic or, in envelopes, of several."""

    def __init__(self, envelope: bool = False) -> None:
        self.envelope = envelope
        self.documents: dict[str, Any] = {}
        self.messages: dict[str, list[Any]] = {}
        self.gaps: list[Any] = []
        self.statuses: list[Any] = []

    def take(self, event: Received) -> None:
        if self.envelope:
            topic, data = event.json["topic"], event.json["data"]
        else:
            topic, data = "", _value(event.data)
        if event.name == "snapshot":
            self.documents[topic] = data
        elif event.name == "patch":
            self.documents[topic] = jsonpatch.apply_patch(self.documents[topic], data)
        elif event.name == "status":
            self.statuses.append((topic, data["state"]))
        elif event.name == "gap":
            self.gaps.append((topic, data))
        else:
            self.messages.setdefault(topic, []).append(data)


def _value(data: str) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data
