"""Nothing that was acknowledged is forgotten, whenever the process is killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT

MUST_HAPPEN = (
    "acknowledged",
    "delivered",
    "streams that ended",
    "resumed in another process, with a patch",
)


def killed(folder: Path, *arguments: str) -> tuple[int, dict[str, float], str]:
    """``python -m killed``: its exit code, the numbers of its table, and all that it wrote."""
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "tests" / "e2e")])
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "killed", "--folder", str(folder), *arguments],
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([path, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    rows = re.findall(r"^  (\S.*?)  +([\d,.]+)", result.stdout, re.MULTILINE)
    numbers = {name: float(number.replace(",", "")) for name, number in rows}
    return result.returncode, numbers, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("history", "kills", "signal"),
    [
        ("sqlite", 20, "KILL"),
        ("sqlite-fsync", 5, "KILL"),
        ("sqlite", 5, "TERM"),
    ],
)
def test_what_was_acknowledged_reaches_everyone_once_and_in_order(
    tmp_path: Path, history: str, kills: int, signal: str
) -> None:
    arguments = ("--history", history, "--kills", str(kills), "--signal", signal)
    code, numbers, written = killed(tmp_path, *arguments)
    assert code == 0, written
    assert numbers["kills"] == kills
    for what in MUST_HAPPEN:
        assert numbers[what] > 0, written


def test_what_memory_forgets_is_noticed(tmp_path: Path) -> None:
    code, numbers, written = killed(tmp_path, "--history", "memory", "--kills", "1")
    assert code == 1, written
    assert numbers["lost"] > 0 and numbers["gaps told"] > 0, written
    assert numbers["no resumption by a patch"] > 0, written
    said = (
        r"lost: reader \d+ \(.*\) never saw publisher \d+'s .* \(acknowledged as .* before kill 1\)"
    )
    assert re.search(said, written), written
