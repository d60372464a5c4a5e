"""
An upstream whose documents change all the time, and that is ill every now and then.

``python -m soak.source`` prints its port. ``GET /calm`` makes it well for good, and tells
the versions at which its documents stand still from now on, and what it did.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from faults.ailments import AILMENTS, JSON, Ailment, status_ailments
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from upstream import Request, Step, Upstream, answer

from soak.documents import Board, Items, Text

reactor: Any = _reactor

ILL = 0.05
"""How likely a document falls ill at each request."""

TOO_DEAR = {"gzip bomb", "deflate bomb", "compressed nothing without end"}
"""They cost more than all the rest; one in twenty of what they would be."""

FINE_AS_TEXT = "an error page"
"""An ailment of JSON only: a page that comes with 200 is a text like any other."""

DOCUMENTS: dict[str, Callable[[], Any]] = {
    "/board": lambda: Board(40),
    "/small": lambda: Board(2),
    "/items": Items,
    "/text": Text,
    "/large": lambda: Board(300, text=1000),
    "/extra": lambda: Board(10),
}


class Source:
    """:ivar counts: what was served, by kind."""

    def __init__(self) -> None:
        self.documents = {path: make() for path, make in DOCUMENTS.items()}
        self.answers: dict[str, tuple[str, bytes]] = {}
        self.counts: Counter[str] = Counter()
        self.calm = False
        ailments = {**AILMENTS, **status_ailments()}
        # Those that are none would be taken for documents.
        self.ailments = {name: one for name, one in ailments.items() if one.says is not None}
        self.ill: dict[str, tuple[Ailment, float]] = {}

    def script(self, request: Request) -> Iterable[Step]:
        path = urlsplit(request.target).path.rstrip("~")
        if path == "/calm":
            return [self.told()]
        ailment = self.ailment(path)
        if ailment is not None:
            self.counts["failures"] += 1
            return ailment.script(request)
        return self.well(path, request)

    def ailment(self, path: str) -> Ailment | None:
        """What `path` suffers from just now."""
        ailment, until = self.ill.pop(path, (None, 0.0))
        if self.calm:
            return None
        now = reactor.seconds()
        if now < until and ailment is not None:
            self.ill[path] = ailment, until
            return ailment
        if random.random() < ILL:
            name = random.choice(list(self.ailments))
            if (path, name) == ("/text", FINE_AS_TEXT):
                return None
            if name not in TOO_DEAR or random.random() < 0.05:
                self.ill[path] = self.ailments[name], now + random.random() * 2
                return self.ailments[name]
        return None

    def well(self, path: str, request: Request) -> Iterable[Step]:
        if path not in self.answers or not (self.calm or random.random() < 0.1):
            self.change(path)
        etag, whole = self.answers[path]
        if request.headers("if-none-match") == [etag]:
            self.counts["not modified"] += 1
            return [answer(b"", "304 Not Modified", f"ETag: {etag}")]
        # Some answers take their time, and come in two pieces.
        half = len(whole) // 2
        return [whole[:half], random.random() / 20, whole[half:]]

    def change(self, path: str) -> None:
        document = self.documents[path]
        now = document.next()
        is_text = isinstance(now, str)
        body = now.encode() if is_text else json.dumps(now).encode()
        kind = "Content-Type: text/plain; charset=utf-8" if is_text else JSON
        etag = f'"{document.version}"'
        self.answers[path] = etag, answer(body, "200 OK", kind, f"ETag: {etag}")
        self.counts["versions"] += 1

    def told(self) -> bytes:
        self.calm = True
        # What nobody has asked for yet has a version, too.
        for path in self.documents.keys() - self.answers.keys():
            self.change(path)
        versions = {path[1:]: document.version for path, document in self.documents.items()}
        return answer(json.dumps({"versions": versions, "counts": self.counts}).encode())


async def serve() -> None:
    upstream = Upstream(Source().script)
    await upstream.__aenter__()
    print(upstream.port, flush=True)


if __name__ == "__main__":
    Deferred.fromCoroutine(serve()).addErrback(lambda failure: sys.exit(str(failure)))
    reactor.run()
