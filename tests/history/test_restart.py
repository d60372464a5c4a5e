"""A hub over a file, left and moved into again: nobody loses anything or is told it twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from files import in_file
from house import Client, House, now

from pushd.config import History
from pushd.event import Payload
from pushd.topic import MessageTopic, Topic


def moved_in(folder: Path, keep: History | None = None, boot: str = "a") -> House:
    return House(
        keep,
        history=lambda keep, clock, now: in_file(folder / "pushd.db", keep, clock, now, boot=boot),
    )


def left(house: House, *clients: Client) -> None:
    house.turn()
    for client in clients:
        client.receive().drop()
    now(house.hub.close())


def back(house: House, client: Client, *topics: Topic) -> Client:
    """The client comes to the new house with what it has."""
    again = house.client(*topics, envelope=client.page.envelope)
    again.page, again.parser = client.page, client.parser
    return again.connect()


def change(house: House, n: int) -> None:
    patch = b'[{"op":"replace","path":"/n","value":%d}]' % n
    house.change("d", Payload("patch", patch), {"n": n, "pad": "x" * 500})


def test_who_comes_back_gets_the_changes_of_a_document_and_no_snapshot(tmp_path: Path) -> None:
    house = moved_in(tmp_path)
    topic = house.document("d")
    client = house.client(topic).connect()
    house.snapshot("d", {"n": 0, "pad": "x" * 500})
    house.turn()
    client.receive().drop()
    change(house, 1)
    change(house, 2)
    left(house)

    house = moved_in(tmp_path)
    client = back(house, client, house.document("d"))
    assert client.buffer.count(b"event: patch") == 2 and b"snapshot" not in client.buffer
    change(house, 3)
    house.turn()
    assert client.receive().page.documents[""]["n"] == 3
    left(house, client)


def test_who_has_everything_is_told_nothing(tmp_path: Path) -> None:
    house = moved_in(tmp_path)
    client = house.client(house.document("d"), house.messages("m")).connect()
    house.snapshot("d", 1)
    house.say("m", "hello")
    left(house, client)

    house = moved_in(tmp_path)
    client = back(house, client, house.document("d"), house.messages("m"))
    assert b"data" not in client.buffer
    left(house, client)


@pytest.mark.parametrize(("more", "gap"), [(0, False), (300, False), (1200, True)])
def test_messages_go_on_and_what_is_gone_is_told_as_a_gap(
    tmp_path: Path, more: int, gap: bool
) -> None:
    house = moved_in(tmp_path)
    client = house.client(house.messages("m"), house.messages("n")).connect()
    house.say("m", "first")
    house.turn()
    client.receive().drop()
    for n in range(more):
        house.say("m", n)
    left(house)

    house = moved_in(tmp_path)
    client = back(house, client, house.messages("m"), house.messages("n"))
    house.say("n", "last")
    house.turn()
    said = _messages(client.receive())
    lost = more - 1000 if gap else 0
    assert said == ["first", *range(lost, more), "last"]
    assert len(client.page.gaps) == gap
    left(house, client)


def test_after_a_power_loss_all_is_told_anew_and_nothing_in_silence(tmp_path: Path) -> None:
    house = moved_in(tmp_path, boot="a")
    client = house.client(house.document("d"), house.messages("m")).connect()
    house.snapshot("d", 1)
    house.say("m", "hello")
    house.turn()
    client.receive().drop()
    house.history._database._disconnect()
    house.history._database.place.release()

    house = moved_in(tmp_path, boot="b")
    client = back(house, client, house.document("d"), house.messages("m"))
    assert client.buffer.count(b"event: snapshot") == client.buffer.count(b"event: gap") == 1
    left(house, client)


def test_a_document_whose_name_became_that_of_messages_is_not_taken_for_them(
    tmp_path: Path,
) -> None:
    house = moved_in(tmp_path)
    house.document("x")
    house.snapshot("x", "a document")
    left(house)

    house = moved_in(tmp_path)
    assert not now(house.hub.recorded("x"))
    topic = house.messages("x")
    assert isinstance(topic, MessageTopic) and len(topic.log) == 0
    client = house.client(topic, house.messages("m")).connect("0")
    house.say("x", "a message")
    house.turn()
    assert _messages(client.receive()) == ["a message"]
    left(house, client)

    house = moved_in(tmp_path)
    assert now(house.hub.recorded("x"))
    assert len(house.messages("x").log) == 1
    house.hub.drop(house.hub.topics["x"])
    house.document("x")
    house.snapshot("x", "another document")
    left(house)
    house = moved_in(tmp_path)
    assert house.document("x").document.data == b'"another document"'  # type: ignore[union-attr]
    left(house)


def _messages(client: Client) -> list[Any]:
    return [message for messages in client.page.messages.values() for message in messages]
