"""``make soak``, for a few seconds: load, faults, reloads and restarts together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from processes import ROOT

SECONDS = 9

MUST_HAPPEN = (
    "documents published (versions)",
    "poll failures injected",
    "messages published",
    "messages delivered",
    "events delivered",
    "statuses told",
    "reconnects",
    "rude clients",
    "reloads",
    "restarts",
)
MUST_NOT_HAPPEN = (
    "messages lost",
    "messages doubled or out of order",
    "wrong documents",
    "documents that are not the newest",
    "connections refused",
)


def test_nothing_is_lost_or_doubled_whatever_happens(tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "tests" / "e2e")])
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "soak", str(SECONDS)],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = dict(re.findall(r"^  (\S.*?)  +([\d,.]+)", result.stdout, re.MULTILINE))
    for what in MUST_HAPPEN:
        assert float(rows[what].replace(",", "")) > 0, what
    for what in MUST_NOT_HAPPEN:
        assert rows[what] == "0", what
