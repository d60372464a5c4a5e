"""Real input: NATS's monitoring API behind pushd, as in the README's tour."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import jsonpatch
from processes import ROOT, free_port, program, pushd, running, wait_until
from reader import Parser


def test_varz_is_a_snapshot_and_patches_and_is_resumed(tmp_path: Path) -> None:
    nats, monitor = free_port(), free_port()
    config = (ROOT / "conf" / "nats.toml").read_text().replace("8222", str(monitor))
    command = [program("nats-server"), "-a", "127.0.0.1", "-p", str(nats), "-m", str(monitor)]
    with (
        running(command, tmp_path / "nats.log", monitor),
        pushd(tmp_path, config.replace("every = 1.0", "every = 0.2")) as daemon,
    ):
        with daemon.stream(tmp_path, "/topics/varz") as curl:
            wait_until(lambda: curl.written.count("event: patch") >= 2, what="two patches")
            written = curl.written
        parser = Parser()
        events = parser.feed(written.encode())
        assert [event.name for event in events[:3]] == ["snapshot", "patch", "patch"]
        document = events[0].json
        assert document["port"] == nats
        for event in events[1:]:
            document = jsonpatch.apply_patch(document, event.json)
            assert len(event.data) < len(json.dumps(document)) / 3

        # A client of NATS comes; its number shows in the document.
        with socket.create_connection(("127.0.0.1", nats)) as client:
            assert client.recv(4096).startswith(b"INFO ")
            client.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
            with daemon.stream(
                tmp_path, "/topics/varz", "-H", f"Last-Event-ID: {parser.last_id}"
            ) as curl:
                wait_until(lambda: '"path":"/connections","value":1' in curl.written)
                resumed = Parser().feed(curl.written.encode())
        assert all(event.name == "patch" for event in resumed)
        for event in resumed:
            document = jsonpatch.apply_patch(document, event.json)
        assert document["connections"] == 1

        connz = json.loads(daemon.curl("/topics/nats/connz", "-H", "Accept: application/json"))
        assert "num_connections" in connz
        assert re.search("HTTP/1.1 404", daemon.curl("/topics/nats/connz/x", "-i"))
