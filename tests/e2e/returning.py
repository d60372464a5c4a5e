"""
Readers that outlive the nodes they read from, and what they are told while many publish.

All of it goes through a proxy. What was acknowledged is held against what each reader
was told, by the ledger of :mod:`killed`.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import count
from typing import Any, Self

from asking import Client
from killed.ledger import MUST_BE_ZERO, Ledger, Message, Seen
from processes import wait_until
from proxied import TOKEN, Proxy
from reader import Parser, Received
from soak.tally import Tally

TOPIC = "news"
NOT_ACKNOWLEDGED = 502, 503, 504
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
PAUSE = 0.02
"""Seconds from an answer to the publisher's next message."""


class Asking:
    """Asks through the proxy, each time on a connection of its own."""

    def __init__(self, proxy: Proxy) -> None:
        self._port = proxy.port
        self._context = ssl.create_default_context(cafile=str(proxy.authority))

    def connect(self) -> http.client.HTTPSConnection:
        connection = http.client.HTTPSConnection(
            "localhost", self._port, timeout=30, context=self._context
        )
        connection.connect()
        return connection

    def get(self, path: str, accept: str) -> tuple[int, str, bytes]:
        """Status, type, and the first line of the body."""
        with closing(self.connect()) as connection:
            connection.request("GET", path, headers={"Accept": accept})
            answer = connection.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.readline()

    def stream(self) -> None:
        """Anything else would end an EventSource for good."""
        status, kind, line = self.get(f"/topics/{TOPIC}", "text/event-stream")
        assert (status, kind.partition(";")[0]) == (200, "text/event-stream"), (status, kind)
        assert line.startswith(b"retry: "), line

    def script(self) -> None:
        status, _, _ = self.get("/static/format.js", "*/*")
        assert status == 200, status

    def publish(self, content: object) -> str | None:
        """Its id, or None if it was not acknowledged; it may be recorded all the same."""
        try:
            with closing(self.connect()) as connection:
                connection.request("POST", f"/topics/{TOPIC}", json.dumps(content), HEADERS)
                answer = connection.getresponse()
                status, body = answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return None
        if status in NOT_ACKNOWLEDGED:
            return None
        assert status == 201, (status, body)
        return str(json.loads(body)["id"])


class Returning:
    """
    A thread that reads as an EventSource does, and comes back with its last id.

    :param take: called with each event; what it raises is a failure.
    :ivar failures: those, and what would have ended an EventSource for good.
    :ivar first: the name of the first event of each stream that had any, but for `status`.
    """

    def __init__(self, asking: Asking, path: str, take: Callable[[Received], object]) -> None:
        self.failures: list[str] = []
        self.first: list[str] = []
        self._asking = asking
        self._path = path
        self._take = take
        self._parser = Parser()
        self._over = threading.Event()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def last_id(self) -> str:
        return self._parser.last_id

    def end(self) -> None:
        self._over.set()
        if self._socket is not None:
            with suppress(OSError):
                # Of TLS, this would be its goodbye, for which the other thread has to wait.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._read()
            except Exception as error:
                if not self._over.is_set():
                    self.failures.append(f"{type(error).__name__}: {error}")
            self._parser.drop()
            self._over.wait((self._parser.retry or 0) / 1000)

    def _read(self) -> None:
        """One stream, to its end."""
        headers = {"Accept": "text/event-stream"}
        if self.last_id:
            headers["Last-Event-ID"] = self.last_id
        with closing(self._asking.connect()) as connection:
            self._socket = connection.sock
            connection.request("GET", self._path, headers=headers)
            with connection.getresponse() as answer:
                kind = answer.headers["Content-Type"].partition(";")[0]
                assert (answer.status, kind) == (200, "text/event-stream"), (answer.status, kind)
                fresh = True
                while not self._over.is_set() and (data := _more(answer)):
                    for event in self._parser.feed(data):
                        if fresh and event.name != "status":
                            self.first.append(event.name)
                            fresh = False
                        self._take(event)


def _more(answer: http.client.HTTPResponse) -> bytes:
    """Nothing at the end of a stream, be it whole or broken off."""
    try:
        return answer.read1(65_536)
    except (OSError, http.client.HTTPException):
        return b""


class Conversation:
    """
    ``with Conversation(asking) as said``: some publish all the time, and many read.

    :ivar readers: who read, each in a thread.
    """

    def __init__(self, asking: Asking, readers: int = 24, publishers: int = 3) -> None:
        self.tally = Tally(MUST_BE_ZERO)
        self.readers: list[Returning] = []
        self._ledger = Ledger(self.tally)
        self._asking = asking
        self._counts = readers, publishers
        self._seen: list[Seen] = []
        self._publishers: list[Client] = []
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        readers, publishers = self._counts
        try:
            for n in range(readers):
                self.readers.append(self._reader(f"reader {n}"))
            wait_until(lambda: all(reader.last_id for reader in self.readers), what="streams")
            for n in range(publishers):
                publisher = Client(f"publisher {n}", partial(self._say, n, count(1)), PAUSE)
                self._publishers.append(publisher)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.hush()
        for reader in self.readers:
            reader.end()

    def _reader(self, who: str) -> Returning:
        seen = self._sees(who)

        def take(event: Received) -> None:
            assert event.name == "message", event
            with self._writing:
                seen.take(Message.of(TOPIC, event.json), event.id)

        return Returning(self._asking, f"/topics/{TOPIC}", take)

    def _sees(self, who: str) -> Seen:
        self._seen.append(Seen(who, [TOPIC], self._ledger))
        return self._seen[-1]

    def _say(self, by: int, numbers: Iterator[int]) -> None:
        message = Message(TOPIC, by, next(numbers))
        id = self._asking.publish(message.content)
        with self._writing:
            if id is None:
                self.tally.count("not acknowledged")
            else:
                self._ledger.acknowledge(message, id, time.monotonic())

    def breaks(self) -> None:
        """A node ends just now: notes will say how long before or after something was."""
        self._ledger.kills.append(time.monotonic())

    def hush(self) -> None:
        """Nothing more is published, and all is answered."""
        for publisher in self._publishers:
            publisher.end()

    def all_told(self, *ids: str) -> bool:
        """Whether all readers have the newest message, and those whose last ids these are."""
        place, last = self._ledger.place, [*ids, *(reader.last_id for reader in self.readers)]
        with self._writing:
            newest = self._ledger.places([TOPIC])[-1]
            return all(id and place(id) >= newest for id in last)

    def judge(self, pages: Sequence[Mapping[str, Any]]) -> None:
        """
        Fails unless all were told what was acknowledged once and in order.

        :param pages: what :data:`proxied.SEEN` says of other readers.
        """
        for n, page in enumerate(pages):
            seen = self._sees(f"Chromium's {n}")
            for data, id in zip(page["messages"], page["ids"], strict=True):
                seen.take(Message.of(TOPIC, json.loads(data)), id)
        self._ledger.judge(self._seen)
        assert not self.tally.failed, "\n".join(self.tally.notes)
        failures = [one.failures for one in (*self.readers, *self._publishers) if one.failures]
        assert not failures, failures
