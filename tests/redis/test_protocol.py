"""What Redis says when it refuses, in the words of its versions."""

from __future__ import annotations

import pytest

from pushd.redis.protocol import Refused

IN_SCRIPT = f"ERR Error running script (call to f_{'0a9f' * 10}): @user_script:1: "
"""How 6.2 begins, whatever it was."""


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("NOSCRIPT No matching script. Please use EVAL.", "NOSCRIPT"),
        ("OOM command not allowed when used memory > 'maxmemory'. script: 0a9f, on x:1.", "OOM"),
        ("ERR The user executing the script can't run this command or subcommand", "NOPERM"),
        (f"{IN_SCRIPT}@user_script: 1: The user executing the script can't run this", "NOPERM"),
        (f"{IN_SCRIPT}@user_script: 1: -OOM command not allowed when used memory", "OOM"),
        (f"{IN_SCRIPT}@user_script: 1: -READONLY You can't write against a", "READONLY"),
        (f"{IN_SCRIPT}@user_script: 1: -MISCONF Redis is configured to save", "MISCONF"),
        (f"{IN_SCRIPT}WRONGTYPE Operation against a key holding the wrong kind", "WRONGTYPE"),
        ("ERR unknown command 'A', with args beginning with: 'The user executing'", "ERR"),
    ],
)
def test_its_reason_is_found_inside_and_outside_of_scripts(message: str, code: str) -> None:
    assert Refused(message).code == code
