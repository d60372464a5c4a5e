"""A real redis-server on a port of its own, which remembers nothing unless told to."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hiredis
from processes import Process, free_port, listens, program, wait_until
from twisted.internet import reactor as _reactor

from pushd.config import History
from pushd.history.redis import RedisHistory
from pushd.redis.address import Address
from pushd.redis.client import Redis

reactor: Any = _reactor


def in_redis(url: str, keep: History, now: Callable[[], float], **options: Any) -> RedisHistory:
    """A history in the Redis at `url`."""
    address = Address.parse(url)
    redis, tail = (
        Redis(
            reactor,
            address,
            address.endpoint(reactor, keep.timeout, keep.ca_file),
            keep.prefix,
            keep.timeout,
        )
        for _ in range(2)
    )
    return RedisHistory(keep, redis, tail, reactor, now, **options)


class RedisServer:
    """
    ``with RedisServer(folder) as server``. It can be ended and begun again, under
    the same port, and be stopped in its tracks.

    :param options: of its command line, besides.
    """

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.port = free_port() if port is None else port
        self.folder = folder
        self.options = options
        self.process: Process | None = None

    def __enter__(self) -> RedisServer:
        return self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def begin(self, *options: str) -> RedisServer:
        command = [program("redis-server"), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "no", "--port", str(self.port)]
        command += [*self.options, *options]
        self.process = Process(command, self.folder / "redis.log")
        process = self.process

        def is_ready() -> bool:
            return listens(self.listens_at) or process.popen.poll() is not None

        wait_until(is_ready, what="redis-server's port")
        assert process.popen.poll() is None, process.written
        return self

    @property
    def listens_at(self) -> int:
        if "--tls-port" in self.options:
            return int(self.options[self.options.index("--tls-port") + 1])
        return self.port

    def end(self, kind: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.proceed()
            self.process.end(kind)
            self.process = None

    def halt(self) -> None:
        """As if it were far too busy."""
        self._signal(signal.SIGSTOP)

    def proceed(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, kind: int) -> None:
        assert self.process is not None
        if self.process.popen.poll() is None:
            self.process.popen.send_signal(kind)

    def ask(self, *command: str | bytes | int, auth: str | None = None) -> Any:
        """The reply to a command, by a connection of its own."""
        reader = hiredis.Reader(notEnoughData=None)
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            if auth is not None:
                connection.sendall(hiredis.pack_command(("AUTH", *auth.split(":"))))  # type: ignore[arg-type]
                assert connection.recv(100) == b"+OK\r\n"
            connection.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]
            while True:
                data = connection.recv(65_536)
                assert data, "redis-server closed the connection"
                reader.feed(data)
                reply = reader.gets()
                if reply is not None:
                    return reply
