"""The C programs, compiled when they are needed."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE / "build"


def program(name: str) -> str:
    """The path of NAME.c's program, newer than all that it is made of."""
    target = BUILD / name
    made_of = [HERE / f"{name}.c", *HERE.glob("*.h")]
    if not target.exists() or target.stat().st_mtime < max(p.stat().st_mtime for p in made_of):
        BUILD.mkdir(exist_ok=True)
        command = ["cc", "-O2", "-Wall", "-o", str(target), str(HERE / f"{name}.c")]
        subprocess.run(command, check=True)
    return str(target)
