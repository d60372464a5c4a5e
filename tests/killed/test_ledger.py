"""The ledger finds what is wrong, and says for whom."""

from __future__ import annotations

import pytest
from soak.tally import Tally

from killed.ledger import MUST_BE_ZERO, Ledger, Message, Seen

FIRST, SECOND, THIRD = (Message("news", 1, number) for number in (1, 2, 3))


class Trial:
    """Three messages, of which the first two are acknowledged, and two readers of them."""

    def __init__(self) -> None:
        self.tally = Tally(MUST_BE_ZERO)
        self.ledger = Ledger(self.tally)
        self.ledger.kills = [10.0]
        self.readers = [Seen(who, ["news"], self.ledger) for who in ("Ann", "Bob")]
        self.ledger.acknowledge(FIRST, "a-1", 9.0)
        self.ledger.acknowledge(SECOND, "a-3", 9.5)

    def tell(self, *messages: tuple[Message, str], to: int | None = None) -> None:
        for reader in self.readers if to is None else [self.readers[to]]:
            for message, id in messages:
                reader.take(message, id)

    def wrong(self) -> dict[str, int]:
        self.ledger.judge(self.readers)
        return {what: self.tally.counts[what] for what in MUST_BE_ZERO if self.tally.counts[what]}


ALL = (FIRST, "a-1"), (SECOND, "a-3")


@pytest.mark.parametrize("id", ["a-5", "a-2"])
def test_what_was_not_acknowledged_may_have_happened_or_not(id: str) -> None:
    trial = Trial()
    trial.tell(*ALL)
    assert trial.wrong() == {}
    trial = Trial()
    trial.tell(*sorted([*ALL, (THIRD, id)], key=lambda told: told[1]))
    assert trial.wrong() == {}


def test_ids_may_say_more_than_where_they_stand() -> None:
    trial = Trial()
    trial.tell((FIRST, "a-1w.91c0de"), (SECOND, "a-3.91c0de"))
    assert trial.wrong() == {}


def test_who_was_not_told_lost_it() -> None:
    trial = Trial()
    trial.tell(*ALL, to=0)
    trial.tell(ALL[1], to=1)
    assert trial.wrong() == {"lost": 1}
    assert trial.tally.notes == [
        "lost: Bob never saw publisher 1's 1 to news (acknowledged as a-1, 1.000 s before kill 1)"
    ]


def test_what_one_was_told_all_have_to_be() -> None:
    trial = Trial()
    trial.tell(*ALL)
    trial.tell((THIRD, "a-4"), to=1)
    assert trial.wrong() == {"told to some only": 1}
    assert trial.tally.notes[0].startswith("told to some only: others saw what Ann did not: ")


def test_twice_is_once_too_often() -> None:
    trial = Trial()
    trial.tell(*ALL)
    trial.tell(ALL[0], to=1)
    assert trial.wrong() == {"doubled": 1}
    trial = Trial()
    trial.tell(*ALL, (FIRST, "a-4"))
    assert trial.wrong() == {"doubled": 1}, "under another id"


def test_order_is_that_of_the_ids_and_that_of_the_acknowledgements() -> None:
    trial = Trial()
    trial.tell(*ALL)
    trial.tell((THIRD, "a-2"))
    assert trial.wrong()["out of order"] == 2
    trial = Trial()
    trial.ledger.acknowledge(THIRD, "a-2", 9.6)
    trial.tell((FIRST, "a-1"), (THIRD, "a-2"), (SECOND, "a-3"))
    assert trial.wrong() == {"acknowledged out of order": 1}


def test_an_id_stands_for_one_message_or_one_change() -> None:
    trial = Trial()
    trial.tell(*ALL)
    trial.tell((THIRD, "a-3"), to=0)
    assert trial.wrong()["ids with two contents"] == 1
    trial = Trial()
    trial.tell(*ALL)
    for patch, id in (([1], "a-4"), ([1], "a-4.91c0de"), ([2], "a-4"), ([1], "a-3")):
        trial.ledger.change(patch, id)
    assert trial.wrong() == {"ids with two contents": 2}


def test_another_epoch_begins_behind_all_before() -> None:
    trial = Trial()
    trial.tell(*ALL, (THIRD, "0-1"))
    assert trial.wrong() == {}
