"""What may be said about where Redis is."""

from __future__ import annotations

import pytest

from pushd.errors import ConfigError
from pushd.redis.address import Address


@pytest.mark.parametrize(
    ("url", "address", "shown"),
    [
        ("redis://localhost", Address("localhost"), "redis://localhost:6379/0"),
        ("redis://h:1/2", Address("h", 1, database=2), "redis://h:1/2"),
        ("redis://:p%40@h", Address("h", password="p@"), "redis://h:6379/0"),
        ("rediss://u:p@h/", Address("h", tls=True, user="u", password="p"), "rediss://h:6379/0"),
        ("redis://[::1]:7", Address("::1", 7), "redis://[::1]:7/0"),
        ("unix:///run/r.sock", Address("/run/r.sock", None), "unix:///run/r.sock"),
    ],
)
def test_a_url_says_where_and_who(url: str, address: Address, shown: str) -> None:
    assert Address.parse(url) == address
    assert str(address) == shown


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://localhost",
        "redis://",
        "redis:///0",
        "redis://h:port",
        "redis://h/zero",
        "redis://h/-1",
        "redis://h?db=1",
        "redis://user@h",
        "unix://run/r.sock",
        "unix://",
        "redis://:secret@[h",
    ],
)
def test_anything_else_is_an_error_that_does_not_show_the_password(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        Address.parse(url)
    assert "secret" not in str(error.value)


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(Address("h", user="u", password="secret"))
