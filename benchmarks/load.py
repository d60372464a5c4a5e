"""The load generator, load.c, and what it says."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import build
from benchmarks.machine import CLIENTS, pinned

BROWSER = (
    "Host: 127.0.0.1:{port}\r\n"
    "Connection: keep-alive\r\n"
    "Accept: text/event-stream\r\n"
    "Cache-Control: no-cache\r\n"
    'sec-ch-ua-platform: "Linux"\r\n'
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/142.0.0.0 Safari/537.36\r\n"
    'sec-ch-ua: "Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"\r\n'
    "sec-ch-ua-mobile: ?0\r\n"
    "Sec-Fetch-Site: same-origin\r\n"
    "Sec-Fetch-Mode: cors\r\n"
    "Sec-Fetch-Dest: empty\r\n"
    "Referer: http://127.0.0.1:{port}/prices/overview\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n"
    "Cookie: session=b2f1c7a0e94d4c5fa1b6e0d3a5c8f7e2; theme=dark; consent=1\r\n"
)
"""What Chrome 142 sends with an EventSource."""

Answer = dict[str, Any]

FOLLOWED = 1000
"""Milliseconds for which those who follow a publisher go on behind its last event."""


class Load:
    """
    A running load generator. Each method is a command, see load.c; each answer tells what
    happened meanwhile, and what CPU time the generator took itself.
    """

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self._popen = popen

    def open(self, clients: int, per_second: int = 1000, pending: int = 256) -> Answer:
        """Connect, until there are `clients` with the head of their answer."""
        self.tell(f"open {clients} {per_second} {pending}")
        return self.opened(clients)

    def opened(self, clients: int) -> Answer:
        """The answer to ``open``, if all are there."""
        answer = self.hear()
        if answer["clients"] != clients:
            raise RuntimeError(f"{answer['clients']} of {clients} clients got in: {answer}")
        return answer

    def publish(
        self, seconds: float, per_second: float = 50.0, batch: int = 1, stopped: int = 0
    ) -> Answer:
        """
        Rounds of `batch` events, `per_second` at most; a round begins when all clients
        have the one before.

        :param stopped: the process that is stopped while a batch is sent, so that it
            finds all of it at once.
        """
        every = round(1e6 / per_second)
        return self._ask(f"publish {round(seconds * 1000)} {batch} {every} {stopped}")

    def watch(self, seconds: float) -> Answer:
        """Read what others make the server send."""
        return self._ask(f"watch {round(seconds * 1000)}")

    def storm(self, per_second: int, every: float, away: float, after: float) -> Answer:
        """Drop all clients while events go on, and let them return; times in seconds."""
        times = (round(1000 * seconds) for seconds in (every, away, after))
        return self._ask("storm {} {} {} {}".format(per_second, *times))

    def close(self) -> Answer:
        """Drop all clients; those that come next are new ones."""
        return self._ask("close")

    def tell(self, command: str) -> None:
        """Give a command, for those who have others to give one to as well."""
        assert self._popen.stdin
        self._popen.stdin.write(command + "\n")
        self._popen.stdin.flush()

    def hear(self) -> Answer:
        """The answer to a command, when it has been obeyed."""
        assert self._popen.stdout
        line = self._popen.stdout.readline()
        if not line:
            raise RuntimeError("the load generator died")
        answer: Answer = json.loads(line)
        return answer

    def _ask(self, command: str) -> Answer:
        self.tell(command)
        return self.hear()


class Crowd:
    """
    Several load generators, for more clients than one may have files. The first one
    publishes, for all of them.
    """

    def __init__(self, loads: Sequence[Load]) -> None:
        self._loads = loads

    def open(self, clients: int, per_second: int) -> None:
        """See :meth:`Load.open`; each has its share of clients, all at the same time."""
        count = len(self._loads)
        shares = [clients // count + (number < clients % count) for number in range(count)]
        for load_, share in zip(self._loads, shares, strict=True):
            load_.tell(f"open {share} {per_second // count} {256 // count}")
        for load_, share in zip(self._loads, shares, strict=True):
            load_.opened(share)

    def publish(self, seconds: float, per_second: float) -> list[Answer]:
        """
        Events one at a time. The next does not wait until all have the last: what
        each generator's clients have is only known to itself.
        """
        first, *others = self._loads
        for load_ in others:
            load_.tell(f"follow {round(seconds * 1000 + FOLLOWED)}")
        answer = first.publish(seconds, per_second)
        return [answer, *(load_.hear() for load_ in others)]

    def close(self) -> None:
        """See :meth:`Load.close`."""
        for load_ in self._loads:
            load_.close()


@contextmanager
def crowd(count: int, port: int, paths: Sequence[str], publish: str) -> Iterator[Crowd]:
    """So many load generators, on any core."""
    with ExitStack() as stack:
        yield Crowd([stack.enter_context(load(port, paths, publish, None)) for _ in range(count)])


@contextmanager
def load(
    port: int, paths: Sequence[str], publish: str | None = None, core: int | None = CLIENTS
) -> Iterator[Load]:
    """
    A load generator for the server on `port`.

    :param paths: what the clients ask for, in turn.
    :param publish: the head of the POST that publishes 100 bytes, without a blank line.
    """
    with tempfile.TemporaryDirectory(prefix="bench-load-") as folder:
        headers = BROWSER.format(port=port)
        heads = Path(folder, "heads")
        heads.write_text("\0".join(f"GET {path} HTTP/1.1\r\n{headers}" for path in paths))
        arguments = [build.program("load"), str(port), str(heads)]
        if publish is not None:
            Path(folder, "publish").write_text(publish)
            arguments.append(str(Path(folder, "publish")))
        popen = subprocess.Popen(
            pinned(core, arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            yield Load(popen)
        finally:
            popen.kill()
            popen.wait()
