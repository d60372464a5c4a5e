"""Clients that ask again and again, while what they ask comes and goes."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable


class Client:
    """
    A thread that asks again and again.

    :param ask: a whole exchange; what it raises is a failure.
    :param pause: seconds from an answer to the next request.
    """

    def __init__(self, name: str, ask: Callable[[], object], pause: float = 0.005) -> None:
        self.name = name
        self.failures: list[str] = []
        self.answers = 0
        self.longest = 0.0
        self._ask = ask
        self._pause = pause
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self.over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self.over.wait(self._pause):
            began = time.monotonic()
            try:
                self._ask()
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            else:
                self.answers += 1
            self.longest = max(self.longest, time.monotonic() - began)


def until_sent_away(port: int, request: bytes) -> bytes:
    """All that comes of a stream."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(request)
        received = b""
        while data := connection.recv(65536):
            received += data
    assert received.startswith(b"HTTP/1.1 200 OK\r\n"), received
    return received


def hesitant(port: int) -> None:
    """Connects, and asks a little later."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        time.sleep(0.15)
        connection.sendall(b"GET /static/format.js HTTP/1.1\r\nHost: test\r\n")
        time.sleep(0.15)
        connection.sendall(b"\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200
        answer.read()
