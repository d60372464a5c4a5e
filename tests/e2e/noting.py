"""An upstream that notes which node asks it when, and gives a newer answer each time."""

from __future__ import annotations

import itertools
import json
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from reader import Page, Received

LENGTH = 10


def document(n: int) -> Any:
    """The n-th answer. A patch of it that is applied to any other gives something else."""
    return {"n": n, "last": list(range(n, n + LENGTH)), "pad": {str(i): i for i in range(30)}}


class Shown:
    """
    A page that shows it. One that is none of the upstream's fails the test.

    :ivar numbers: which it has shown.
    :ivar ids: under which ids.
    """

    def __init__(self) -> None:
        self.page = Page()
        self.numbers: list[int] = []
        self.ids: list[str] = []

    def take(self, event: Received) -> None:
        self.page.take(event)
        if event.name in ("snapshot", "patch"):
            built = self.page.documents[""]
            number = built["n"]
            assert built == document(number), built
            assert number >= self.shown, "older than before"
            assert number > self.shown or event.name == "snapshot", "no change"
            self.numbers.append(number)
            self.ids.append(event.id)

    @property
    def shown(self) -> int:
        """Which it shows now; 0 is none."""
        return self.numbers[-1] if self.numbers else 0


@dataclass
class Poll:
    """One request, until it was answered (with which document) or its client went away."""

    node: str
    began: float
    ended: float = float("inf")
    number: int = 0


@dataclass
class Upstream:
    """
    ``with Upstream() as upstream``; nodes say who they are in the header X-Node.

    :ivar takes: seconds to answer in.
    :ivar held: those who have to wait for their answers.
    :ivar still: whether its document stays as it is.
    :ivar status: what it answers with.
    :ivar headers: of its answers, besides.
    """

    takes: float = 0.02
    held: frozenset[str] = frozenset()
    still: bool = False
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    polls: list[Poll] = field(default_factory=list)

    def __enter__(self) -> Upstream:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/"

    def since(self, when: float) -> list[str]:
        """Who has asked since then (time.monotonic), in order."""
        return [poll.node for poll in self.polls if poll.began >= when]

    def under_way(self, node: str) -> list[Poll]:
        """A node's polls that wait for their answers, and not just for a moment."""
        before = time.monotonic() - 2 * self.takes
        of_node = [poll for poll in self.polls if poll.node == node and poll.began < before]
        return [poll for poll in of_node if poll.ended == float("inf")]

    def last(self) -> str | None:
        """Who has asked last."""
        return self.polls[-1].node if self.polls else None

    def overlaps(self) -> list[tuple[Poll, Poll]]:
        """Polls that one node began while another's was not over."""
        polls = list(self.polls)
        return [
            (one, other)
            for n, one in enumerate(polls)
            for other in polls[n + 1 :]
            if one.node != other.node and other.began < one.ended
        ]

    def shortest(self) -> float:
        """Seconds between the two polls that were closest together."""
        began = [poll.began for poll in self.polls]
        return min((b - a for a, b in itertools.pairwise(began)), default=float("inf"))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that is gone is no error."""


def _handler(upstream: Upstream) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            poll = Poll(str(self.headers["X-Node"]), time.monotonic())
            upstream.polls.append(poll)
            poll.number = 1 if upstream.still else len(upstream.polls)
            body = json.dumps(document(poll.number)).encode()
            is_gone = _is_gone(self.connection, upstream.takes)
            while poll.node in upstream.held and not is_gone:
                is_gone = _is_gone(self.connection, upstream.takes)
            if is_gone:
                self.close_connection = True
            else:
                self.send_response(upstream.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                for name, value in upstream.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
            poll.ended = time.monotonic()

        def log_message(self, *_: object) -> None:
            """Not in the output of the tests."""

    return Handler


def _is_gone(connection: socket.socket, seconds: float) -> bool:
    """Wait; whether the client did not."""
    readable, _, _ = select.select([connection], [], [], seconds)
    if not readable:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True
