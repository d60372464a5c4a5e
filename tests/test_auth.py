"""Who may publish, and how often."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from pushd.auth import Tokens
from pushd.errors import ClientError


class Door:
    """Tokens, and a clock."""

    def __init__(self, *tokens: str, max_rate: float = 1000.0, since: float = 0.0) -> None:
        self.clock = Clock()
        self.clock.advance(since)
        self.tokens = Tokens(tokens, max_rate, self.clock.seconds)

    def opens(self, token: str) -> bool:
        return self.refusal(f"Bearer {token}") is None

    def refusal(self, authorization: str | None, access_token: str | None = None) -> str | None:
        """The status and what goes with it; None if the door opens."""
        try:
            self.tokens.admit(authorization, access_token)
        except ClientError as error:
            (value,) = error.headers.values() or [""]
            told = f"{error.status} {value}".strip()
            whole = f"{error} {error.detail} {error.headers} {error.extra}"
        else:
            return None
        assert "token-" not in whole
        return told


def test_without_tokens_nobody_gets_in() -> None:
    assert Door().refusal("Bearer token-a") == "403"
    assert Door().refusal("Bearer ") == "403"


@pytest.mark.parametrize(
    ("authorization", "access_token"),
    [
        ("Bearer token-a", None),
        ("bearer  token-b ", None),
        ("Bearer token-b", "wrong"),
        (None, "token-a"),
        ("Basic dXNlcjpwYXNz", "token-ü"),
    ],
)
def test_any_of_the_tokens_does_in_the_header_or_the_query(
    authorization: str | None, access_token: str | None
) -> None:
    door = Door("token-a", "token-b", "token-ü")
    assert door.refusal(authorization, access_token) is None


@pytest.mark.parametrize(
    ("authorization", "access_token"),
    [
        (None, None),
        ("", ""),
        ("Bearer", None),
        ("Bearer ", "token-a"),
        ("Bearer token-", None),
        ("Bearer token-aa", None),
        ("Basic token-a", None),
        (None, "token-\udc61"),
    ],
)
def test_nothing_else_does(authorization: str | None, access_token: str | None) -> None:
    door = Door("token-a", "token-b")
    assert door.refusal(authorization, access_token) == '401 Bearer realm="pushd"'


def test_a_seconds_worth_may_come_at_once_and_then_one_at_each_interval() -> None:
    door = Door("token-a", max_rate=4)
    assert [door.opens("token-a") for _ in range(6)] == [True] * 4 + [False] * 2
    door.clock.advance(0.25)
    assert [door.opens("token-a") for _ in range(2)] == [True, False]
    door.clock.advance(100)
    assert [door.opens("token-a") for _ in range(6)] == [True] * 4 + [False] * 2


def test_each_token_has_a_rate_of_its_own_and_a_wrong_one_uses_up_none() -> None:
    door = Door("token-a", "token-b", max_rate=1)
    assert not door.opens("wrong")
    assert door.opens("token-a")
    assert not door.opens("token-a")
    assert [door.opens("token-b") for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("max_rate", "wait"), [(1000.0, 1), (1.0, 1), (0.5, 2), (0.3, 4), (0.01, 100)]
)
def test_who_is_too_fast_hears_in_whole_seconds_when_it_is_his_turn(
    max_rate: float, wait: int
) -> None:
    door = Door("token-a", max_rate=max_rate)
    while (refusal := door.refusal("Bearer token-a")) is None:
        pass
    assert refusal == f"429 {wait}"
    door.clock.advance(wait)
    assert door.opens("token-a")


def test_what_is_refused_for_its_rate_costs_nothing() -> None:
    door = Door("token-a", max_rate=1)
    door.opens("token-a")
    for _ in range(10):
        door.clock.advance(0.1)
        got = door.opens("token-a")
    assert got


@given(
    st.floats(0.01, 10_000),
    st.floats(0, 1e7),
    st.lists(st.floats(0, 2), max_size=60),
)
def test_no_more_is_let_through_than_the_rate_and_a_burst(
    max_rate: float, since: float, waits: list[float]
) -> None:
    door = Door("token-a", max_rate=max_rate, since=since)
    through = 0
    for wait in waits:
        door.clock.advance(wait)
        through += sum(door.opens("token-a") for _ in range(5))
        elapsed = door.clock.seconds() - since
        assert through <= max(1.0, max_rate) + max_rate * elapsed + 0.02


def test_a_day_at_the_full_rate_is_never_refused() -> None:
    door = Door("token-a", max_rate=3, since=1e6)
    for _ in range(20_000):
        assert door.opens("token-a")
        door.clock.advance(1 / 3)
