"""What two nodes may write into one topic in Redis: one of them, and only after what it knows."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
import pytest_twisted
from redis_server import RedisServer, in_redis
from upstream import until
from zope.interface import implementer

from pushd.config import History
from pushd.errors import OvertakenError
from pushd.event import Document, Draft, Event, Payload
from pushd.history.redis import RedisHistory
from pushd.interfaces import IHistoryListener


@implementer(IHistoryListener)
class Node:
    """A history that is shared, and what it told."""

    def __init__(self, history: RedisHistory) -> None:
        self.history = history
        self.head = 0
        self.told: list[int] = []

    def committed(self, events: Sequence[Event], document: Document | None) -> None:
        self.told += [event.seq for event in events]

    def unavailable(self, reason: str) -> None: ...

    def available(self) -> None: ...

    def restarted(self, head: int) -> None: ...

    async def change(self, data: bytes, after: int | None = None, topic: str = "d") -> int:
        draft = Draft(topic, (Payload("patch", data),), Document(data), after=after)
        (event,) = await self.history.append(draft)
        return event.seq

    async def say(self, data: bytes, topic: str) -> int:
        (event,) = await self.history.append(Draft(topic, (Payload(None, data),)))
        return event.seq


class Nodes:
    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.prefix = secrets.token_hex(4)
        keep = History(prefix=self.prefix)
        self.a, self.b = (
            Node(in_redis(server.url, keep, lambda: 1000.0, fenced=True)) for _ in range(2)
        )

    def lease(self, node: Node | None, topic: str = "d") -> None:
        """Now that node has it."""
        key = f"{{{self.prefix}}}:lease:{topic}"
        if node is None:
            self.server.ask("DEL", key)
        else:
            self.server.ask("SET", key, f"{node.history.node} 1 ok ")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest_twisted.async_yield_fixture
async def nodes(server: RedisServer) -> AsyncIterator[Nodes]:
    both = Nodes(server)
    for node in (both.a, both.b):
        node.head = await node.history.open(node)
    yield both
    for node in (both.a, both.b):
        await node.history.close()


async def test_a_document_is_recorded_for_the_node_that_has_the_lease(nodes: Nodes) -> None:
    for holder, other in ((nodes.a, nodes.b), (nodes.b, nodes.a)):
        nodes.lease(holder)
        seq = await holder.change(b"[1]")
        await until(lambda other=other, seq=seq: other.told[-1:] == [seq])
        with pytest.raises(OvertakenError, match="Another node fills this topic"):
            await other.change(b"[2]")
    assert (await nodes.a.history.load("d")).document == Document(b"[1]")


async def test_without_a_lease_nobody_writes_a_document(nodes: Nodes) -> None:
    with pytest.raises(OvertakenError):
        await nodes.a.change(b"[1]")
    nodes.lease(nodes.a)
    await nodes.a.change(b"[1]")
    nodes.lease(None)
    with pytest.raises(OvertakenError):
        await nodes.a.change(b"[2]")


async def test_messages_need_no_lease(nodes: Nodes) -> None:
    nodes.lease(nodes.a, "m")
    assert await nodes.b.say(b"1", "m") == await nodes.a.say(b"2", "m") - 1


async def test_a_change_of_what_another_has_changed_meanwhile_is_refused(nodes: Nodes) -> None:
    """Its sender may have had the lease before and have it again: patches need their document."""
    nodes.lease(nodes.a)
    first = await nodes.a.change(b"[1]", after=0)
    nodes.lease(nodes.b)
    second = await nodes.b.change(b"[2]", after=first)
    nodes.lease(nodes.a)
    with pytest.raises(OvertakenError, match="Another node has changed this topic"):
        await nodes.a.change(b"[3]", after=first)
    assert (await nodes.a.history.load("d")).document == Document(b"[2]")
    assert await nodes.a.change(b"[3]", after=second) == second + 1


async def test_other_topics_do_not_matter_for_that(nodes: Nodes) -> None:
    nodes.lease(nodes.a)
    first = await nodes.a.change(b"[1]", after=0)
    await nodes.b.say(b"1", "m")
    assert await nodes.a.change(b"[2]", after=first) == first + 2


async def test_what_another_node_has_forgotten_is_written_anew_and_does_not_vouch_for_its_past(
    nodes: Nodes,
) -> None:
    """Or who comes back with an old id would be sent a patch of a document that it has not."""
    nodes.lease(nodes.a)
    await nodes.a.change(b"[1]")
    seq = await nodes.a.change(b"[2]")
    nodes.lease(None)
    await nodes.b.history.forget("d")
    nodes.lease(nodes.a)
    await nodes.a.change(b"[3]", after=seq)
    kept = await nodes.b.history.load("d")
    assert (kept.floor, kept.document) == (seq, Document(b"[3]"))
    assert [event.payload.data for event in kept.events] == [b"[3]"]


async def test_messages_that_had_the_name_before_are_no_changes(nodes: Nodes) -> None:
    seq = await nodes.a.say(b"1", "d")
    nodes.lease(nodes.a)
    await nodes.a.change(b"[1]", after=0)
    kept = await nodes.a.history.load("d")
    assert (kept.floor, len(kept.events)) == (seq, 1)
    assert nodes.server.ask("XLEN", f"{{{nodes.prefix}}}:events:d") == 1


async def test_changes_that_had_the_name_before_are_no_messages(nodes: Nodes) -> None:
    nodes.lease(nodes.a)
    seq = await nodes.a.change(b"[1]")
    await nodes.a.say(b"1", "d")
    kept = await nodes.b.history.load("d")
    assert (kept.floor, kept.document, len(kept.events)) == (seq, None, 1)


async def test_what_another_node_fills_is_not_forgotten(nodes: Nodes) -> None:
    nodes.lease(nodes.a)
    await nodes.a.change(b"[1]")
    await nodes.b.history.forget("d")
    assert (await nodes.b.history.load("d")).document == Document(b"[1]")
    await nodes.a.history.forget("d")
    assert (await nodes.b.history.load("d")).document is None
