"""How many files may be open, and how many of them are for clients."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from pushd.descriptors import reserve, room

LIMITS = st.integers(min_value=16, max_value=2**20)


@given(LIMITS)
def test_clients_get_most_and_never_all(limit: int) -> None:
    assert 0 < reserve(limit) <= limit / 4


@given(LIMITS, LIMITS)
def test_more_files_are_more_for_both(one: int, other: int) -> None:
    less, more = sorted((one, other))
    assert reserve(less) <= reserve(more)
    assert less - reserve(less) <= more - reserve(more)


def test_what_is_kept_for_the_rest_is_told() -> None:
    assert [reserve(limit) for limit in (128, 1024, 65536)] == [32, 102, 512]


def in_a_process(program: str, soft: int, hard: int) -> str:
    """What a program that may have so many files prints."""
    shell = f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$0" -c "$1"'
    program = f"from pushd.descriptors import *; {program}"
    command = ["sh", "-c", shell, sys.executable, program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_all_that_may_be_had_are_taken() -> None:
    limits = "import resource; print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    assert in_a_process(limits, 100, 200) == "200 200 200"
    assert in_a_process(limits, 200, 200) == "200 200 200"


def test_there_is_room_for_what_is_left_when_all_else_has_its_own() -> None:
    assert 80 <= int(in_a_process("print(room())", 128, 128)) <= 93
    opens = "import os; before = room(); os.dup(0); os.dup(0); print(before - room())"
    assert in_a_process(opens, 128, 128) == "2"
    assert in_a_process("print(room())", 6, 6) == "1", "or nobody could be served at all"


def test_here_too() -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert room() <= limit - len(os.listdir("/proc/self/fd"))
