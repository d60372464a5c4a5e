"""No room: what real clients make of it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from processes import Daemon, program, pushd, wait_until
from test_browser import chromium

CONFIG = """
[server]
max_clients = 1
retry_when_busy = 0.3
[publish]
tokens = ["secret"]
topics = ["news"]
"""

PAGE = """
window.seen = {opens: 0, states: [], events: []};
window.source = new EventSource("/topics/news");
source.onopen = () => seen.opens++;
source.onerror = () => seen.states.push(source.readyState);
for (const name of ["message", "hello", "gap"])
    source.addEventListener(name, (event) => seen.events.push(event.data));
"""

FETCH = """
const answer = await fetch(process.argv[1]);
let text = "", end = "orderly";
try { for await (const piece of answer.body) text += Buffer.from(piece); }
catch (error) { end = String(error); }
console.log(JSON.stringify({ status: answer.status, text, end }));
"""


def publish(daemon: Daemon, text: str) -> None:
    got = daemon.curl(
        "/topics/news", "-H", "Authorization: Bearer secret", "-H", "Content-Type: text/plain",
        "-d", text,
    )  # fmt: skip
    assert "id" in json.loads(got)


def seats(daemon: Daemon) -> int:
    return int(json.loads(daemon.curl("/readyz"))["streams"])


def test_a_browsers_eventsource_waits_for_room_and_never_gives_up(tmp_path: Path) -> None:
    with pushd(tmp_path, CONFIG) as daemon, chromium(tmp_path, 800, 600) as driver:

        def seen() -> Any:
            return driver.execute_script("return seen")

        with daemon.stream(tmp_path, "/topics/news"):
            wait_until(lambda: seats(daemon) == 1, what="the only seat's taking")
            driver.get(daemon.url("/healthz"))
            driver.execute_script(PAGE)
            began = time.monotonic()
            wait_until(lambda: len(seen()["states"]) >= 3, what="three attempts")
            # At once, and then twice after 0.3 to 0.6 s each.
            assert 0.5 < time.monotonic() - began < 5
            publish(daemon, "while it waits")
        # It hears of nothing that was said before it had its place.
        wait_until(lambda: publish(daemon, "at last") or seen()["events"], what="an event")
        assert set(seen()["events"]) == {"at last"}
        closed = 2
        assert closed not in seen()["states"]
        assert driver.execute_script("return source.readyState") == 1
        assert "Traceback" not in daemon.process.written


def test_who_reads_by_fetch_sees_that_the_answer_has_no_end(tmp_path: Path) -> None:
    with pushd(tmp_path, CONFIG) as daemon, daemon.stream(tmp_path, "/topics/news"):
        wait_until(lambda: seats(daemon) == 1, what="the only seat's taking")
        command = [program("node"), "--input-type=module", "-e", FETCH, daemon.url("/topics/news")]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        got = json.loads(ran.stdout)
        assert got["status"] == 200
        assert got["text"].startswith("retry: ")
        assert got["text"].endswith("(max_clients).\n")
        assert got["end"] == "TypeError: terminated"
