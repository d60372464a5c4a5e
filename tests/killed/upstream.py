"""A source whose document changes many times a second, until it is told to stand still."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from faults.ailments import JSON
from soak.documents import Board
from twisted.internet.task import LoopingCall
from upstream import Request, Step, Upstream, answer

EVERY = 0.04
"""Seconds from one version to the next."""

ROWS = 400
"""So many that the patches of some seconds weigh less than the document."""


class Changing:
    """
    ``async with Changing() as changing``: it changes.

    :ivar document: as it is now.
    :ivar version: that of the document.
    """

    def __init__(self) -> None:
        self._board = Board(ROWS)
        self._upstream = Upstream(self._script)
        self._change()
        self._changing = LoopingCall(self._change)

    async def __aenter__(self) -> Changing:
        await self._upstream.__aenter__()
        self._changing.start(EVERY)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stand_still()
        await self._upstream.__aexit__()

    def url(self) -> str:
        return self._upstream.url("/board")

    def stand_still(self) -> None:
        if self._changing.running:
            self._changing.stop()

    def _change(self) -> None:
        self.document: Any = self._board.next()
        self.version = self._board.version
        etag = f'"{self.version}"'
        self._etag = etag
        body = json.dumps(self.document).encode()
        self._answer = answer(body, "200 OK", JSON, f"ETag: {etag}")

    def _script(self, request: Request) -> Iterable[Step]:
        if request.headers("if-none-match") == [self._etag]:
            return [answer(b"", "304 Not Modified", f"ETag: {self._etag}")]
        return [self._answer]
