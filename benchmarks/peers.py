"""
Who is measured: pushd, and those beside it.

A peer is started anew for each run, on the server's core. It answers GET with an event
stream, and sends what is POSTed to all who listen.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from benchmarks import build
from benchmarks.machine import SERVER
from benchmarks.process import Process, free_port, running

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent

PUBLISH = (
    "POST {path} HTTP/1.1\r\n"
    "Host: 127.0.0.1\r\n"
    "Content-Type: application/json\r\n"
    "Authorization: Bearer bench\r\n"
    "Content-Length: 100\r\n"
)


class Peer:
    """
    :ivar name: what it is called on the command line.
    :ivar title: what it is called in the table.
    :ivar read: the path of its stream.
    :ivar write: the path that is published to.
    :ivar worker: which of its processes has the clients, the first or the last.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    read: ClassVar[str] = "/"
    write: ClassVar[str] = "/"
    worker: ClassVar[int] = 0

    def __init__(self) -> None:
        self.port = free_port()

    @property
    def publish(self) -> str:
        """The head of a POST."""
        return PUBLISH.format(path=self.write)

    def arguments(self, folder: Path) -> list[str]:
        """The command that runs it, with whatever files it needs in `folder`."""
        raise NotImplementedError

    @contextmanager
    def running(self, core: int | None = SERVER) -> Iterator[Process]:
        """Started, and listening on its port."""
        with tempfile.TemporaryDirectory(prefix=f"bench-{self.name}-") as name:
            folder = Path(name)
            with running(self.arguments(folder), self.port, core, folder) as process:
                yield process


class Pushd(Peer):
    """
    The real daemon, with its defaults except what is limited on purpose. Its history is
    in memory, if nothing else is said.

    :param sources: what else its configuration holds.
    :param server: what else of that is in ``[server]``.
    :param history: what of that is in ``[history]``.
    """

    name = "pushd"
    title = "pushd"
    history = 'backend = "memory"\n'
    read = write = "/topics/bench"
    twistd: ClassVar[tuple[str, ...]] = (str(BIN / "twistd"),)

    def __init__(self, sources: str = "", server: str = "", history: str = "") -> None:
        super().__init__()
        self._sources = sources
        self._server = server
        self._history = history or self.history

    def arguments(self, folder: Path) -> list[str]:
        """See :meth:`Peer.arguments`."""
        (folder / "pushd.toml").write_text(
            f'[server]\nmax_clients = 60000\ncompress = "never"\n{self._server}'
            f"[history]\n{self._history}"
            '[publish]\ntokens = ["bench"]\ntopics = ["bench"]\nmax_rate = 1000000.0\n'
            f"{self._sources}"
        )
        listen = f"tcp:{self.port}:interface=127.0.0.1"
        options = ["-n", "--pidfile=", "pushd", "-c", str(folder / "pushd.toml")]
        return [*self.twistd, *options, "--listen", listen]


class TimedPushd(Pushd):
    """The same, which also says when a timer was late."""

    twistd = (sys.executable, str(HERE / "timed.py"))

    @staticmethod
    def latest(process: Process, since: int) -> float:
        """By how many milliseconds one was at most, behind the first `since` bytes it said."""
        said = process.output.read_bytes()[since:].decode()
        return max(map(float, re.findall(r"^late ([\d.]+)$", said, re.MULTILINE)), default=0.0)


class PushdInFile(Pushd):
    """The same, with its history in a file."""

    name = "pushd-sqlite"
    title = "pushd, SQLite"
    history = 'backend = "sqlite"\n'


class Nchan(Peer):
    """
    nginx with nchan, one worker; its defaults but for what pushd does too: as many
    messages kept, and nothing told to newcomers but what is new.
    """

    name = "nchan"
    title = "nginx + nchan"
    read = "/read"
    write = "/write"
    worker = -1
    module = "/usr/lib/nginx/modules/ngx_nchan_module.so"

    def arguments(self, folder: Path) -> list[str]:
        """See :meth:`Peer.arguments`."""
        (folder / "nginx.conf").write_text(f"""
            load_module {self.module};
            daemon off; user root; worker_processes 1; worker_rlimit_nofile 65536;
            pid {folder}/pid; error_log {folder}/error.log warn;
            events {{ worker_connections 32768; }}
            http {{
              access_log off; keepalive_requests 1000000000; keepalive_timeout 3600;
              client_body_temp_path {folder}; proxy_temp_path {folder};
              server {{
                listen 127.0.0.1:{self.port} backlog=4096;
                location = /read {{
                  nchan_subscriber eventsource; nchan_channel_id bench;
                  nchan_subscriber_first_message newest;
                }}
                location = /write {{
                  nchan_publisher; nchan_channel_id bench; nchan_message_buffer_length 1000;
                }}
              }}
            }}
        """)
        nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if nginx is None or not Path(self.module).exists():
            raise RuntimeError("nginx and nchan: apt-get install libnginx-mod-nchan")
        return [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")]


class SendLoop(Peer):
    """The least that is possible: a loop around send(), in C."""

    name = "c"
    title = "send() loop in C"

    def arguments(self, folder: Path) -> list[str]:
        """See :meth:`Peer.arguments`."""
        return [build.program("send_loop"), str(self.port)]


class Plain(Peer):
    """Twisted as its manual shows it: a Resource that keeps requests and writes to them."""

    name = "plain"
    title = "plain request.write"
    kind: ClassVar[str] = "resource"

    def arguments(self, folder: Path) -> list[str]:
        """See :meth:`Peer.arguments`."""
        return [sys.executable, str(HERE / "plain.py"), str(self.port), self.kind]


class Klein(Plain):
    """A Klein route that returns a Deferred."""

    name = "klein"
    title = "Klein, Deferred"
    kind = "klein"


class KleinResource(Plain):
    """A Klein route that returns a resource."""

    name = "klein-resource"
    title = "Klein, NOT_DONE_YET"
    kind = "klein-resource"


class Starlette(Peer):
    """sse-starlette on uvicorn, with a queue for each client, as its manual shows it."""

    name = "starlette"
    title = "sse-starlette"

    def arguments(self, folder: Path) -> list[str]:
        """See :meth:`Peer.arguments`."""
        options = ["--log-level", "error", "--no-access-log", "--backlog", "4096"]
        where = ["--port", str(self.port), "--app-dir", str(HERE)]
        return [sys.executable, "-m", "uvicorn", "asgi:app", *where, *options]


PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (Pushd, PushdInFile, SendLoop, Nchan, Plain, Klein, KleinResource, Starlette)
}
