"""
What a page costs on the wire in a minute: polled once a second, and streamed.

    python benchmarks/saving.py [--seconds 60] [--json FILE]

Two documents: the demo's ten stocks, and 50 KB of 350 objects of which a fifth
is renewed each second (price, quantity and time). An API on loopback serves
them; a pushd of its own polls it. The readers send what Chromium sends. Counted
is what goes through TCP in both directions: requests, headers and bodies, for
streams with their beginning (headers, and the whole document once). TLS and
TCP/IP would add to each exchange of the polls more than to each event.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import json
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from pushd.demo import Market

ROOT = Path(__file__).resolve().parent.parent

BROWSER = (
    "Connection: keep-alive\r\n"
    'sec-ch-ua-platform: "Linux"\r\n'
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/142.0.0.0 Safari/537.36\r\n"
    'sec-ch-ua: "Chromium";v="142", "Not_A Brand";v="99"\r\n'
    "sec-ch-ua-mobile: ?0\r\n"
    "Accept: {accept}\r\n"
    "Sec-Fetch-Site: same-origin\r\n"
    "Sec-Fetch-Mode: cors\r\n"
    "Sec-Fetch-Dest: empty\r\n"
    "Referer: https://app.example.com/\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    "Accept-Language: en-US,en;q=0.9\r\n"
)
"""What Chromium sends with a fetch() or an EventSource."""

ROWS = {
    "polled": "polled",
    "polled, ETag": "polled with ETag",
    "polled, ETag, gzip": "polled with ETag, gzip",
    "patches": "patches",
    "patches, gzip": "patches, gzip",
}


class Documents:
    """What the API says at each second; the same to all who ask in it."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._chance = random.Random(1)
        self._market = Market(random.Random(1), 0.0)
        self._goods = [
            {
                "id": number,
                "name": f"{self._chance.choice(('Blue', 'Oak', 'Nova', 'Iron'))} article {number}",
                "category": self._chance.choice(("garden", "kitchen", "books", "tools")),
                "price": 0.0,
                "quantity": 0,
                "updated": "2026-01-01T00:00:00Z",
            }
            for number in range(350)
        ]
        self._renew(self._goods, 0)
        self._second = 0
        self._now: dict[str, bytes] = {}

    def get(self, name: str) -> bytes:
        second = int(time.monotonic() - self._began)
        if second != self._second or not self._now:
            for step in range(self._second + 1, second + 1):
                self._renew(self._chance.sample(self._goods, len(self._goods) // 5), step)
            self._second = second
            self._market.advance(float(second))
            self._now = {
                "stocks": msgspec.json.encode({"stocks": self._market.quotes()}),
                "50 KB": msgspec.json.encode(self._goods),
            }
        return self._now[name]

    def _renew(self, goods: list[dict[str, Any]], second: int) -> None:
        for one in goods:
            one["price"] = round(self._chance.uniform(1, 500), 2)
            one["quantity"] = self._chance.randrange(1000)
            one["updated"] = f"2026-01-01T00:{second // 60 % 60:02}:{second % 60:02}Z"


async def serve(
    documents: Documents, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """One connection to the API: ``/NAME``, or ``/NAME?bare`` without ETag and gzip."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            target = head.split(" ")[1]
            name, _, query = target.removeprefix("/").replace("%20", " ").partition("?")
            body = documents.get(name)
            etag = f'"{hashlib.blake2b(body, digest_size=8).hexdigest()}"'
            lines = ["HTTP/1.1 200 OK", time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT")]
            lines += ["Server: nginx", "Content-Type: application/json", "Cache-Control: no-cache"]
            if "bare" not in query:
                lines.append(f"ETag: {etag}")
                if etag in head:
                    lines[0], body = "HTTP/1.1 304 Not Modified", b""
            if "gzip" in query and body:
                body = gzip.compress(body, 6)
                lines.append("Content-Encoding: gzip")
            if not lines[0].endswith("Modified"):
                lines.append(f"Content-Length: {len(body)}")
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    writer.close()


class Counted:
    """A client and its bytes: all, and those of bodies alone."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.total = self.bodies = self.events = 0

    async def _send(self, target: str, accept: str, more: str = "") -> str:
        text = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
        text += BROWSER.format(accept=accept) + more + "\r\n"
        self._writer.write(text.encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        self.total += len(text) + len(head)
        return head.decode()

    async def poll(self, target: str, seconds: float) -> None:
        """Once a second, saying what it has."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        known = ""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            head = await self._send(target, "*/*", known and f"If-None-Match: {known}\r\n")
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
            known = fields.get("ETag", "")
            body = await self._reader.readexactly(int(fields.get("Content-Length", 0)))
            self._count(len(body))
            self.events += bool(body)
            await asyncio.sleep(1)
        self._writer.close()

    async def stream(self, target: str, seconds: float) -> None:
        """Whatever comes; the last bytes are those of chunks."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = await self._send(target, "text/event-stream")
        assert head.startswith("HTTP/1.1 200"), head
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while data := await self._reader.read(1 << 20):
                    self._count(len(data))
                    self.events += 1
        self._writer.close()

    def _count(self, size: int) -> None:
        self.total += size
        self.bodies += size


async def measure(seconds: float) -> dict[str, dict[str, Counted]]:
    """All readers of all documents at the same time: they see the same changes."""
    documents = Documents()
    connected: Callable[..., Any] = lambda *streams: serve(documents, *streams)  # noqa: E731
    api = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = api.sockets[0].getsockname()[1]
    results: dict[str, dict[str, Counted]] = {}
    with tempfile.TemporaryDirectory() as folder:
        process, own = await start(Path(folder), port)
        try:
            work = []
            for topic, name in (("stocks", "stocks"), ("document", "50 KB")):
                clients = {row: Counted(own if row.startswith("patch") else port) for row in ROWS}
                results[name] = clients
                polled = "/" + name.replace(" ", "%20")
                work += [
                    clients["polled"].poll(f"{polled}?bare", seconds),
                    clients["polled, ETag"].poll(polled, seconds),
                    clients["polled, ETag, gzip"].poll(f"{polled}?gzip", seconds),
                    clients["patches"].stream(f"/topics/{topic}?compress=0", seconds),
                    clients["patches, gzip"].stream(f"/topics/{topic}", seconds),
                ]
            await asyncio.gather(*work)
        finally:
            process.terminate()
            await process.wait()
            api.close()
    return results


async def start(folder: Path, api: int) -> tuple[asyncio.subprocess.Process, int]:
    """A pushd that polls the API; and its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    sources = [
        f'[sources.{name}]\nurl = "http://127.0.0.1:{api}/{path}"\nevery = 1.0\n{more}\n'
        for name, path, more in (("stocks", "stocks", ""), ("document", "50%20KB", ""))
    ]
    (folder / "pushd.toml").write_text('[history]\nbackend = "memory"\n' + "".join(sources))
    process = await asyncio.create_subprocess_exec(
        *[str(Path(sys.executable).parent / "twistd"), "-n", "--pidfile=", "pushd"],
        *["-c", "pushd.toml", "--listen", f"tcp:{port}:interface=127.0.0.1"],
        cwd=folder,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))},
    )
    for _ in range(100):
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return process, port
        await asyncio.sleep(0.1)
    raise SystemExit("pushd did not start")


def figures(results: dict[str, dict[str, Counted]], seconds: float) -> dict[str, Any]:
    """Per client: bytes a minute, and what is saved of what is polled without ETag and gzip."""
    minute = 60 / seconds
    return {
        name: {
            row: {
                "bytes_per_minute": round(counted.total * minute),
                "bodies_per_minute": round(counted.bodies * minute),
                "bytes_per_event": round(counted.total / max(1, counted.events)),
                "saving": round(1 - counted.total / clients["polled"].total, 4),
                "saving_against_etag_gzip": round(
                    1 - counted.total / clients["polled, ETag, gzip"].total, 4
                ),
            }
            for row, counted in clients.items()
        }
        for name, clients in results.items()
    }


def table(told: dict[str, Any]) -> str:
    """The same, to look at."""
    lines = [
        f"{'':28}{'bytes/min':>11}{'bodies':>11}{'per event':>11}{'saved':>9}{'of ETag+gzip':>14}"
    ]
    for name, rows in told.items():
        lines.append(name)
        for row, one in rows.items():
            lines.append(
                f"  {ROWS[row]:26}{one['bytes_per_minute']:>11,}{one['bodies_per_minute']:>11,}"
                f"{one['bytes_per_event']:>11,}{one['saving']:>9.1%}"
                f"{one['saving_against_etag_gzip']:>14.1%}"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description="Bytes on the wire: polling, patches, gzip.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path, help="where to write the figures too")
    given = parser.parse_args()
    told = figures(asyncio.run(measure(given.seconds)), given.seconds)
    print(table(told))
    if given.json:
        given.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
