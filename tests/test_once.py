"""What many ask for at the same time: done once, and given to all of them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from pushd.once import WOKEN_AT_ONCE, Once


class Asked:
    """Jobs that are done when a test says so."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.once: Once[str, int] = Once(self.clock)
        self.jobs: list[Deferred[int]] = []

    def ask(self, key: str = "k") -> list[Any]:
        given: list[Any] = []
        self.once.ask(key, self._job).addBoth(given.append)
        return given

    def _job(self) -> Deferred[int]:
        self.jobs.append(Deferred())
        return self.jobs[-1]


@pytest.fixture
def asked() -> Asked:
    return Asked()


def test_who_asks_while_others_are_told_has_it_done_anew(asked: Asked) -> None:
    again: list[list[Any]] = []
    asked.once.ask("k", asked._job).addCallback(lambda _: again.append(asked.ask()))
    asked.jobs[0].callback(1)
    assert again == [[]] and len(asked.jobs) == 2
    asked.jobs[1].callback(2)
    assert again == [[2]]


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_all_are_told_however_many_there_are(asked: Asked, more: int) -> None:
    given = [asked.ask() for _ in range(2 * WOKEN_AT_ONCE + more)]
    asked.jobs[0].callback(1)
    assert [one for one in given if one] == [[1]] * WOKEN_AT_ONCE, "others have their turn too"
    asked.clock.pump([0, 0])
    assert given == [[1]] * len(given)
    assert len(asked.jobs) == 1


def test_what_is_done_at_once_is_given_at_once_and_kept_by_nobody(asked: Asked) -> None:
    def at_once() -> Deferred[int]:
        done: Deferred[int] = Deferred()
        done.callback(len(asked.jobs))
        return done

    given: list[int] = []
    asked.once.ask("k", at_once).addCallback(given.append)
    asked.jobs.append(Deferred())
    asked.once.ask("k", at_once).addCallback(given.append)
    assert given == [0, 1]
