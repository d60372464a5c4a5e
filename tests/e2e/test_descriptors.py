"""The daemon when there are no files left to open: old clients live on, new ones wait."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import TWISTD, Daemon, free_port, program, running, wait_until

REQUEST = b"GET /topics/stocks HTTP/1.1\r\nHost: test\r\n\r\n"


class Stream:
    """A client that reads the demo's stocks."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 5)
        self._socket.sendall(REQUEST)
        self._socket.setblocking(False)
        self.received = bytearray()
        self.open = True

    def read(self) -> None:
        try:
            while self.open and (data := self._socket.recv(65536)):
                self.received += data
            self.open = False
        except BlockingIOError:
            pass
        except ConnectionError:
            self.open = False

    @property
    def events(self) -> int:
        self.read()
        return self.received.count(b"\nevent: ")

    @property
    def served(self) -> bool:
        return self.events > 0

    def close(self) -> None:
        self._socket.close()


@contextmanager
def limited(folder: Path, files: int) -> Iterator[Daemon]:
    """The demo, which may open so many files."""
    port = free_port()
    shell = f'ulimit -n {files}; exec "$0" "$@"'
    arguments = ["sh", "-c", shell, TWISTD, "-n", "--pidfile=", "pushd"]
    arguments += ["--listen", f"tcp:{port}:interface=127.0.0.1"]
    with running(arguments, folder / "log", port) as process:
        yield Daemon(process, port)


def all_get_news(streams: list[Stream]) -> None:
    before = [stream.events for stream in streams]
    wait_until(
        lambda: all(s.events > b for s, b in zip(streams, before, strict=True)), what="news for all"
    )


def test_few_files_serve_few_and_the_others_wait_for_their_turn(tmp_path: Path) -> None:
    with limited(tmp_path, 128) as daemon:
        old = [Stream(daemon.port) for _ in range(60)]
        wait_until(lambda: all(stream.served for stream in old))
        new = [Stream(daemon.port) for _ in range(100)]
        all_get_news(old)
        assert all(stream.open for stream in new)
        served = sum(stream.served for stream in new)
        assert 5 < served < 40, "some fit in"
        for stream in old:
            stream.close()
        wait_until(lambda: sum(stream.served for stream in new) >= served + 55)
        for stream in [stream for stream in new if stream.served]:
            stream.close()
            new.remove(stream)
        wait_until(lambda: all(stream.served for stream in new))
        all_get_news(new)
        log = daemon.process.written
        assert log.count("new ones wait") == 1
        assert "the limit of open files leaves room for" in log
        for wrong in ("Traceback", "EMFILE", "Unhandled", "Too many open files"):
            assert wrong not in log
        for stream in new:
            stream.close()


def test_when_there_are_none_at_all_clients_wait_until_there_are(tmp_path: Path) -> None:
    """As when something else in the process takes what was kept for it."""
    with limited(tmp_path, 128) as daemon:
        pid = str(daemon.process.popen.pid)

        def limit(files: int) -> None:
            subprocess.run([program("prlimit"), "--pid", pid, f"--nofile={files}:"], check=True)

        old = [Stream(daemon.port) for _ in range(10)]
        wait_until(lambda: all(stream.served for stream in old))
        limit(len(list(Path(f"/proc/{pid}/fd").iterdir())) + 3)
        new = [Stream(daemon.port) for _ in range(20)]
        wait_until(lambda: "new ones wait" in daemon.process.written)
        all_get_news(old)
        assert sum(stream.served for stream in new) < 5
        assert all(stream.open for stream in new)
        limit(128)
        wait_until(lambda: all(stream.served for stream in new))
        log = daemon.process.written
        assert log.count("new ones wait") == 1
        assert "no connection can be opened (Too many open files)" in log
        for wrong in ("Traceback", "EMFILE", "Unhandled"):
            assert wrong not in log
        for stream in old + new:
            stream.close()
