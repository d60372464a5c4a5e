"""The processes of pushd that are killed, each on a port of its own, with a history in common."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from processes import TWISTD, obeys, quiet_port
from soak.tally import Tally
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

reactor: Any = _reactor

TOPICS = [f"news{n}" for n in range(8)]
"""Those of messages; there is a document besides, the board."""

LONGEST_START = 20.0
LONGEST_END = 15.0

Return: TypeAlias = Callable[[Sequence[int], int | None], int]
"""From the ports of all nodes and that of the last connection, if any, to that of the next."""


def to_the_same(ports: Sequence[int], last: int | None) -> int:
    return random.choice(ports) if last is None else last


def to_any(ports: Sequence[int], last: int | None) -> int:
    return random.choice(ports)


RETURNS: dict[str, Return] = {"same": to_the_same, "any": to_any}

CONFIG = """
[server]
drain = 1.0
retry = 0.1
retry_spread = 0.2
retry_when_busy = 0.2
heartbeat = 2.0
# So that slow readers soon stand still, and are given what they missed from the history.
send_buffer = 16384
[history]
{history}
# All of it: nothing may be gone.
keep_events = 10000000
keep_seconds = 36000.0
keep_bytes = 1000000000
[publish]
tokens = ["secret"]
topics = [{topics}]
max_rate = 100000.0
[sources.board]
url = "{source}"
every = 0.05
max_backoff = 0.2
"""


class Node:
    """
    One port, and one process on it after the other.

    :ivar lives: how many there were.
    :ivar away: seconds for which there was none that listened, at the longest.
    """

    def __init__(self, name: str, folder: Path, tally: Tally) -> None:
        self.name = name
        self.port = quiet_port()
        self.lives = 0
        self.away = 0.0
        self._folder = folder
        self._tally = tally
        self._died: float | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _log(self) -> Path:
        """One each life: what is looked for in it is found at once."""
        return self._folder / f"{self.name}-{self.lives:03}.log"

    def start(self) -> None:
        self.lives += 1
        listen = f"tcp:{self.port}:interface=127.0.0.1"
        command = [TWISTD, "-n", "--pidfile=", "pushd", "-c", str(self._folder / "pushd.toml")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--listen", listen],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={**os.environ, "PYTHONWARNINGS": ""},
            )

    @property
    def listens(self) -> bool:
        return self._process is not None and obeys(self._process.pid)

    async def until_it_listens(self) -> None:
        """Raises RuntimeError if it never will."""
        assert self._process is not None
        deadline = reactor.seconds() + LONGEST_START
        while not self.listens:
            if self._process.poll() is not None or reactor.seconds() > deadline:
                end = self._log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} did not start for the {self.lives}. time:\n{end}")
            await deferLater(reactor, 0.01)
        if self._died is not None:
            self.away = max(self.away, reactor.seconds() - self._died)
            self._died = None

    async def end(self, how: signal.Signals) -> None:
        """Send a signal, and wait for the end that it has to lead to."""
        assert self._process is not None
        self._died = self._died or reactor.seconds()
        self._process.send_signal(how)
        deadline = reactor.seconds() + LONGEST_END
        while self._process.poll() is None:
            if reactor.seconds() > deadline:
                self._tally.wrong("restarts that went wrong", f"{how.name} did not end {self.name}")
                self._process.kill()
            await deferLater(reactor, 0.01)
        code, due = self._process.returncode, -how if how == signal.SIGKILL else 0
        if code != due:
            note = f"life {self.lives} of {self.name} ended with {code}, at {how.name}"
            self._tally.wrong("restarts that went wrong", note)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def check_logs(self) -> None:
        for path in sorted(self._folder.glob(f"{self.name}-*.log")):
            for line in path.read_text(errors="replace").splitlines():
                if "Traceback" in line or "Unhandled" in line:
                    self._tally.wrong("tracebacks in the log", f"{path.name}: {line}")


class Nodes:
    """
    All of them.

    :param history: lines of TOML; ``{folder}`` stands for a folder of theirs.
    :param back: to which of them a client comes back.
    """

    def __init__(
        self, folder: Path, number: int, history: str, back: Return, source: str, tally: Tally
    ) -> None:
        self.all = [Node(f"node{n}", folder, tally) for n in range(number)]
        self._back = back
        topics = ", ".join(f'"{topic}"' for topic in TOPICS)
        config = CONFIG.format(
            history=history.replace("{folder}", str(folder)), topics=topics, source=source
        )
        (folder / "pushd.toml").write_text(config)

    def port(self, last: int | None) -> int:
        """For the next connection of a client whose last one was to `last`."""
        return self._back([node.port for node in self.all], last)

    def life(self, port: int) -> tuple[int, int]:
        """Which process it is that listens there, now or soon."""
        (lives,) = (node.lives for node in self.all if node.port == port)
        return port, lives

    async def until_all_listen(self) -> None:
        for node in self.all:
            await node.until_it_listens()

    def close(self) -> None:
        for node in self.all:
            node.close()
