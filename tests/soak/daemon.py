"""pushd under something like systemd: one socket, and one process on it after the other."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from faults.ailments import MAX_BYTES
from processes import TWISTD, obeys
from service_manager import activate
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from soak.tally import Tally

reactor: Any = _reactor

MESSAGE_TOPICS = [f"news{n}" for n in range(4)]
LONGEST_END = 15.0
"""Seconds within which a process has to end when it is asked to; `drain` and some."""

CONFIG = f"""
[server]
drain = 2.0
retry = 0.5
retry_spread = 0.5
heartbeat = 2.0
client_timeout = 3.0
header_timeout = 2.0
body_timeout = 2.0
send_buffer = 16384
[history]
# Full after some seconds, so that memory does not go on growing for that reason.
keep_events = 500
[publish]
tokens = ["secret"]
topics = [{", ".join(f'"{topic}"' for topic in [*MESSAGE_TOPICS, "rude"])}]
max_body = 65536
"""

SOURCES: dict[str, tuple[float, str]] = {
    "board": (0.2, ""),
    "small": (0.1, ""),
    "items": (0.3, 'emit = "items"\nkey = "key"'),
    "text": (0.4, 'emit = "snapshot"'),
    "large": (1.0, 'when = "always"'),
    "extra": (0.3, ""),
}
"""Seconds between two polls, more or less, and what else is said of a source."""


class Pushd:
    """
    :ivar process: the one that runs now.
    :ivar port: where all of them listen.
    :ivar ended: how many of them came to their end.
    :ivar seconds: their CPU time, and that of their second processes.
    """

    def __init__(self, folder: Path, upstream: str, tally: Tally) -> None:
        self.folder = folder
        self.tally = tally
        self.ended = 0
        self.reloads = 0
        self.seconds = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self._upstream = upstream
        self._sources: dict[str, str] = {}
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._log = folder / "pushd.log"
        self.port: int = self._socket.getsockname()[1]
        self.configure(extra=True)

    @property
    def configuration(self) -> Path:
        return self.folder / "pushd.toml"

    def configure(self, *, extra: bool) -> None:
        """Write a configuration: some of the sources are other than before, and one may be gone."""
        for name, lines in SOURCES.items():
            if name not in self._sources or random.random() < 0.3:
                self._sources[name] = self._source(name, *lines)
        sources = [text for name, text in self._sources.items() if extra or name != "extra"]
        # At once, as whoever reads it must not find half of it.
        new = self.folder / "pushd.toml.new"
        new.write_text("\n".join([CONFIG, *sources]))
        new.replace(self.configuration)

    def _source(self, name: str, every: float, *lines: str) -> str:
        return "\n".join(
            [
                f"[sources.{name}]",
                f'url = "{self._upstream}/{name}?{random.randrange(1000)}"',
                f"every = {every * random.uniform(0.8, 1.2):.3f}",
                f"timeout = 1.0\nmax_backoff = 0.5\nmax_bytes = {MAX_BYTES}",
                *lines,
            ]
        )

    def start(self) -> None:
        listen = "systemd:domain=INET:name=http"
        arguments = [TWISTD, "-n", "--pidfile=", "pushd", "-c", str(self.configuration)]
        self.process = activate(
            self._socket, "http", [*arguments, "--listen", listen], self._log, PYTHONWARNINGS=""
        )

    def reload(self, *, extra: bool | None = None) -> None:
        """With a new configuration; `extra` is there, or not, or perhaps."""
        self.configure(extra=random.random() < 0.6 if extra is None else extra)
        if self.process is not None and self.process.poll() is None and self.listens:
            self.reloads += 1
            self.process.send_signal(signal.SIGHUP)

    @property
    def listens(self) -> bool:
        """Whether this process has come so far that it knows its signals."""
        return self.process is not None and obeys(self.process.pid)

    @property
    def written(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    async def end(self) -> None:
        """SIGTERM, and the exit code has to be 0."""
        assert self.process is not None
        while not self.listens and self.process.poll() is None:
            await deferLater(reactor, 0.05)
        if self.process.poll() is None:
            self.process.terminate()
        deadline = reactor.seconds() + LONGEST_END
        pid, status, usage = 0, 0, None
        while not pid:
            if reactor.seconds() > deadline:
                self.tally.wrong("restarts that went wrong", "SIGTERM did not end it")
                self.process.kill()
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            await deferLater(reactor, 0.05)
        self.process.returncode = code = os.waitstatus_to_exitcode(status)
        if code:
            self.tally.wrong("restarts that went wrong", f"exit code {code}")
        assert usage is not None
        self.seconds += usage.ru_utime + usage.ru_stime
        self.ended += 1

    async def restart(self) -> None:
        await self.end()
        self.start()

    def close(self) -> None:
        self._socket.close()
        if self.process is not None and self.process.returncode is None:
            self.process.kill()

    @property
    def memory(self) -> int:
        """Bytes of the process that runs now; not those of its second one (proc(5))."""
        assert self.process is not None
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def log_of_interest(self) -> list[str]:
        """The log without those who came and went, and without the healths of sources."""
        boring = ("stream of", "source of", "HTTP/1.", "#info] refused")
        lines = self.written.splitlines()
        return [line for line in lines if not any(word in line for word in boring)][-200:]

    def check_log(self) -> None:
        for line in self.written.splitlines():
            if "Traceback" in line or "Unhandled" in line:
                self.tally.wrong("tracebacks in the log", line)
