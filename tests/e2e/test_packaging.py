"""What pip installs is a twistd that knows pushd, from any directory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT, pushd, wait_until


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What is under version control, without what was built from it."""
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    for name in filter(None, files):
        if (ROOT / name).exists():
            (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "checkout" / name)
    return tmp_path / "checkout"


@pytest.mark.parametrize("arguments", [["."], ["-e", "."]], ids=" ".join)
def test_pip_install_makes_twistd_list_pushd(
    checkout: Path, tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *arguments], cwd=checkout, check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    twistd = str(venv / "bin" / "twistd")
    listed = subprocess.run(
        [twistd, "--help"], cwd=elsewhere, capture_output=True, text=True, check=True
    )
    assert "\n    pushd " in listed.stdout
    # And it runs: with its page, its plugin and the second process for large documents.
    monkeypatch.setattr("processes.TWISTD", twistd)
    with pushd(elsewhere) as daemon, daemon.stream(elsewhere, "/topics/stocks") as curl:
        wait_until(lambda: "event: patch" in curl.written)
        assert "<!doctype html>" in daemon.curl("/").lower()
    worker = [str(venv / "bin" / "python"), "-m", "pushd.sources.worker"]
    assert subprocess.run(worker, cwd=elsewhere, input=b"", check=True).returncode == 0
