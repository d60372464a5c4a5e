"""Some readers that do all that a page does: they rebuild the documents."""

from __future__ import annotations

import http.client
import json
import threading
import zlib
from collections.abc import Sequence
from typing import Any

import jsonpatch

from benchmarks.benchmark import Figures


class Samples:
    """
    Readers of documents, a thread each. They keep what they read, and look at it later,
    so as not to be in the way.
    """

    def __init__(self, port: int, paths: Sequence[str]) -> None:
        self._port = port
        self._streams = {path: bytearray() for path in paths}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(path,)) for path in paths]

    def __enter__(self) -> Samples:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _read(self, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        while not self._over.is_set():
            self._streams[path] += answer.read1(65_536)
        connection.close()

    def verify(self) -> Figures:
        """How many documents were rebuilt, and how many of them are not what was served."""
        verified = wrong = 0
        for stream in self._streams.values():
            document: Any = None
            last = 0
            for name, data in _events(bytes(stream)):
                if name == "snapshot":
                    document = data
                elif name == "patch":
                    document = jsonpatch.apply_patch(document, data, in_place=True)
                else:
                    continue
                number = int(document["stamp"][1:].partition("@")[0])
                verified += 1
                wrong += not (_sum(document) == document["sum"] and last in (0, number - 1))
                last = number
        return {"verified": verified, "wrong": wrong + (verified == 0)}


def _events(stream: bytes) -> list[tuple[str, Any]]:
    """What is whole of a stream of Server-Sent Events, as names and JSON."""
    found = []
    for block in stream.split(b"\n\n")[:-1]:
        fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line)
        if b"data" in fields:
            found.append((fields.get(b"event", b"message").decode(), json.loads(fields[b"data"])))
    return found


def _sum(document: Any) -> int:
    """See upstream.c."""
    crcs = (zlib.crc32(record["value"].encode()) for record in document["records"])
    return sum(place * crc for place, crc in enumerate(crcs, 1)) % 2**32
