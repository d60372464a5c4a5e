"""A source that other nodes may poll: this one does while it has the lease, and only then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from house import House, now
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pushd.config import Source
from pushd.errors import OvertakenError
from pushd.interfaces import ILeaseholder, ILeases, IListener, ISource, Report
from pushd.metrics import Metrics
from pushd.sources.fetch import Answer
from pushd.sources.leased import Leased
from pushd.sources.pace import Slots
from pushd.sources.poll import Poller, Surroundings
from pushd.sources.worker import Worker
from pushd.throttle import Throttle
from pushd.topic import DocumentTopic


@implementer(ILeases)
class Leases:
    """Notes who wants what; the test decides who has it."""

    def __init__(self) -> None:
        self.holders: dict[str, ILeaseholder] = {}
        self.doubted: list[str] = []

    def want(self, key: str, holder: ILeaseholder) -> None:
        self.holders[key] = holder

    def unwant(self, key: str, holder: ILeaseholder) -> None:
        if self.holders.get(key) is holder:
            del self.holders[key]

    def doubt(self, key: str, holder: ILeaseholder) -> None:
        self.doubted.append(key)
        holder.revoked()


class Upstream:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.waiting: list[Deferred[Answer]] = []

    def fetch(self, url: str, headers: Mapping[str, str], **_: Any) -> Deferred[Answer]:
        self.asked += 1
        waiting: Deferred[Answer] = Deferred(self.waiting.remove)
        self.waiting.append(waiting)
        return waiting

    def answer(self, value: Any, status: int = 200) -> None:
        headers = Headers({"Content-Type": ["application/json"]})
        self.waiting.pop(0).callback(Answer(status, headers, json.dumps(value).encode()))


class Node:
    """One of several nodes, with a topic that any of them may poll, and a client."""

    def __init__(self) -> None:
        self.house = House()
        self.leases = Leases()
        self.upstream = Upstream()
        self.around = Surroundings(
            self.house.hub,
            Worker(None),  # type: ignore[arg-type]
            self.house.clock,
            self.house.now,
            lambda: 0.5,
            Metrics(),
            Throttle(self.house.clock),
            Slots(0.5),
        )
        self.source = Source(url="https://api.example/stocks", topic="stocks")
        self.topic = now(self.house.hub.document_topic("stocks", self.fill, 60.0))
        self.client = self.house.client(self.topic)

    def fill(self, topic: DocumentTopic, before: ISource | None = None) -> ISource:
        self.forgotten: list[bool] = []
        poller = Poller(
            topic,
            self.source,
            self.source.url,
            {},
            self.around,
            self.upstream,  # type: ignore[arg-type]
            lambda: self.forgotten.append(True),
            before.poller if isinstance(before, Leased) else None,
        )
        self.leased = Leased(poller, self.leases, self.house.hub, self.house.clock, 10.0)
        return self.leased

    def wait(self, seconds: float) -> int:
        before = self.upstream.asked
        self.house.clock.pump([1 / 16] * round(seconds * 16))
        return self.upstream.asked - before

    def other_node_records(self, value: Any) -> None:
        self.house.snapshot("stocks", value)
        self.house.turn()

    @property
    def told(self) -> list[str]:
        self.house.turn()
        self.client.receive()
        return [state for _, state in self.client.page.statuses]

    @property
    def document(self) -> Any:
        self.house.turn()
        return self.client.receive().page.documents.get("")


@pytest.fixture
def node() -> Node:
    return Node()


def test_it_is_what_it_says(node: Node) -> None:
    for interface in (ISource, ILeaseholder, IListener):
        verifyObject(interface, node.leased)
    verifyObject(ILeases, node.leases)


def test_nobody_wants_what_nobody_watches(node: Node) -> None:
    assert node.leases.holders == {}
    node.client.connect()
    assert node.leases.holders == {"stocks": node.leased}
    node.client.drop()
    assert node.leases.holders == {}


def test_nothing_is_polled_before_the_lease_is_there_and_at_once_then(node: Node) -> None:
    node.client.connect()
    assert node.wait(5) == 0
    node.leased.granted(0, None)
    assert node.upstream.asked == 1
    node.upstream.answer([1])
    assert node.document == [1]
    assert node.wait(5) > 1 or node.upstream.waiting


def test_what_the_others_recorded_has_to_be_known_first(node: Node) -> None:
    node.client.connect()
    node.leased.granted(2, None)
    assert node.upstream.asked == 0
    node.other_node_records([1])
    assert node.upstream.asked == 0
    node.other_node_records([2])
    assert node.upstream.asked == 1
    node.upstream.answer([2])
    assert node.house.hub.head == 2


@pytest.mark.parametrize(("seq", "heads"), [(0, 2), (None, 1), (1, 1)])
def test_what_the_history_holds_no_more_is_recorded_again(
    node: Node, seq: int | None, heads: int
) -> None:
    node.other_node_records([1])
    node.client.connect()
    node.leased.granted(seq, None)
    node.upstream.answer([1])
    assert node.house.hub.head == heads


def test_when_the_lease_is_lost_the_poll_under_way_is_cancelled(node: Node) -> None:
    node.client.connect()
    node.leased.granted(0, None)
    node.leased.revoked()
    assert node.upstream.waiting == []
    assert node.wait(5) == 0
    assert node.leases.holders, "it is still wanted"
    node.leased.granted(0, None)
    assert len(node.upstream.waiting) == 1


def test_readers_hear_from_another_node_how_the_source_is_doing(node: Node) -> None:
    node.client.connect()
    node.leased.elsewhere(Report("ok"))
    node.leased.elsewhere(Report("error", "It is down."))
    node.leased.elsewhere(Report("error", "It is down."))
    assert node.told == ["error"]
    assert node.topic.status.reason == "It is down."
    node.leased.elsewhere(Report("ok"))
    assert node.told == ["error", "ok"]


def test_what_another_node_kept_fresh_is_not_stale_when_this_one_takes_over(node: Node) -> None:
    node.client.connect()
    node.leased.granted(0, None)
    node.upstream.answer([1])
    node.leased.revoked()
    for _ in range(100):
        node.wait(1)
        node.leased.elsewhere(Report("ok"))
    node.leased.granted(1, Report("ok", None, 5.0))
    assert node.wait(4.9) == 0
    assert node.told == []
    assert node.wait(0.2) == 1


def test_who_had_to_wait_does_not_begin_together_with_all_others_that_had_to(node: Node) -> None:
    node.other_node_records([1])
    node.client.connect()
    node.leased.elsewhere(Report("ok"))
    node.leased.granted(1, None)
    assert node.wait(0.4) == 0
    assert node.wait(0.2) == 1


def test_nor_does_who_lost_it_for_a_while_as_all_nodes_may_have(node: Node) -> None:
    node.client.connect()
    node.leased.granted(0, None)
    node.upstream.answer([1])
    node.leased.revoked()
    node.wait(5)
    node.leased.granted(1, None)
    assert node.wait(0.4) == 0
    assert node.wait(0.2) == 1


def test_what_is_granted_at_once_begins_at_once(node: Node) -> None:
    node.other_node_records([1])
    node.client.connect()
    node.leased.granted(1, None)
    assert node.upstream.asked == 1


def test_an_answer_for_which_this_node_was_too_late_is_dropped_and_the_lease_doubted(
    node: Node, monkeypatch: Any
) -> None:
    node.client.connect()
    node.leased.granted(0, None)

    def refuse(_: Any) -> Deferred[Any]:
        refused: Deferred[Any] = Deferred()
        refused.errback(OvertakenError("Another node has it."))
        return refused

    with monkeypatch.context() as patched:
        patched.setattr(node.house.hub, "publish", refuse)
        node.upstream.answer([1])
    assert node.leases.doubted == ["stocks"]
    assert node.wait(5) == 0
    assert node.told == []
    node.leased.elsewhere(Report("ok"))
    node.other_node_records([2])
    assert node.document == [2]


def test_a_changed_source_goes_on_with_the_lease(node: Node) -> None:
    node.client.connect()
    node.leased.granted(0, None)
    node.upstream.answer([1])
    before = node.leased
    node.house.hub.refill(node.topic, lambda before: node.fill(node.topic, before), 60.0)
    assert node.leased is not before
    assert node.leases.holders == {"stocks": node.leased}
    node.leased.granted(0, None)
    node.wait(1.5)
    node.upstream.answer([2])
    assert node.document == [2]


def test_a_refresh_polls_if_the_lease_is_to_be_had(node: Node) -> None:
    node.house.hub.watch(node.topic)
    refreshed = node.house.hub.refresh(node.topic)
    assert not refreshed.called
    node.leased.granted(0, None)
    assert not refreshed.called
    node.upstream.answer([1])
    assert refreshed.called
    assert node.topic.document is not None
    again = node.house.hub.refresh(node.topic)
    assert again.called, "it was asked less than an interval ago"
    node.house.hub.unwatch(node.topic)
    assert node.leases.holders == {}
    assert node.wait(9) == 0


def test_a_refresh_asks_again_when_it_is_time(node: Node) -> None:
    test_a_refresh_polls_if_the_lease_is_to_be_had(node)
    node.house.hub.watch(node.topic)
    node.leased.granted(1, None)
    refreshed = node.house.hub.refresh(node.topic)
    assert not refreshed.called
    node.upstream.answer([2])
    assert refreshed.called


def test_a_refresh_takes_what_another_node_keeps_fresh(node: Node) -> None:
    node.other_node_records([1])
    node.house.hub.watch(node.topic)
    refreshed = node.house.hub.refresh(node.topic)
    assert not refreshed.called, "the document may be an old one"
    node.leased.elsewhere(Report("ok"))
    assert refreshed.called
    assert node.upstream.asked == 0


def test_what_another_node_kept_fresh_once_may_be_old_now(node: Node) -> None:
    test_a_refresh_takes_what_another_node_keeps_fresh(node)
    node.house.hub.unwatch(node.topic)
    node.house.hub.watch(node.topic)
    refreshed = node.house.hub.refresh(node.topic)
    assert not refreshed.called
    node.leased.elsewhere(Report("ok"))
    assert refreshed.called
    node.leased.granted(9, None)
    refreshed = node.house.hub.refresh(node.topic)
    assert not refreshed.called, "there is more that this node has not been told"
    node.house.hub.unwatch(node.topic)


def test_a_refresh_goes_on_with_the_source_that_takes_over(node: Node) -> None:
    node.house.hub.watch(node.topic)
    refreshed = node.house.hub.refresh(node.topic)
    node.house.hub.refill(node.topic, lambda before: node.fill(node.topic, before), 60.0)
    assert not refreshed.called
    node.leased.granted(0, None)
    node.upstream.answer([1])
    assert refreshed.called


def test_a_refresh_waits_for_the_first_answer_that_another_node_gets(node: Node) -> None:
    node.house.hub.watch(node.topic)
    refreshed = node.house.hub.refresh(node.topic)
    node.leased.elsewhere(Report("ok"))
    assert not refreshed.called
    node.other_node_records([1])
    assert refreshed.called


def test_a_refresh_is_over_when_another_node_gets_no_answer(node: Node) -> None:
    node.house.hub.watch(node.topic)
    refreshed = node.house.hub.refresh(node.topic)
    node.leased.elsewhere(Report("ok"))
    node.leased.elsewhere(Report("error", "It is down."))
    assert refreshed.called
    assert node.topic.status.reason == "It is down."


def test_a_refresh_does_not_wait_for_ever(node: Node) -> None:
    node.house.hub.watch(node.topic)
    refreshed = [node.house.hub.refresh(node.topic) for _ in range(2)]
    node.wait(9.9)
    assert not any(one.called for one in refreshed)
    node.wait(0.2)
    assert all(one.called for one in refreshed)


def test_a_refresh_that_nobody_waits_for_any_more_leaves_nothing_behind(node: Node) -> None:
    node.house.hub.watch(node.topic)
    refreshed = node.house.hub.refresh(node.topic)
    refreshed.addErrback(lambda _: None)
    refreshed.cancel()
    node.house.hub.unwatch(node.topic)
    node.wait(61)
    assert node.forgotten == [True]
    assert node.house.clock.getDelayedCalls() == []
    assert node.house.hub._audience.topics() == () and node.house.hub.dropped == {}


def test_a_refresh_during_which_the_lease_is_lost_is_over(node: Node) -> None:
    node.house.hub.watch(node.topic)
    node.leased.granted(0, None)
    refreshed = node.house.hub.refresh(node.topic)
    node.leased.revoked()
    assert refreshed.called


def test_a_topic_that_is_dropped_while_it_is_read_gives_the_lease_back(node: Node) -> None:
    node.client.connect()
    node.leased.granted(0, None)
    node.house.hub.drop(node.topic)
    assert node.leases.holders == {} and node.forgotten == [True]
    assert node.upstream.waiting == []
    node.client.drop()
    assert node.house.hub._audience.topics() == () and node.house.hub.dropped == {}


def test_what_has_ended_is_wanted_no_more(node: Node) -> None:
    node.client.connect()
    node.leased.granted(0, None)
    node.upstream.answer("", 410)
    assert node.client.finished
    assert node.leases.holders == {}
    node.house.hub.watch(node.topic)
    assert node.leases.holders == {}
    node.house.hub.unwatch(node.topic)


def test_all_is_given_back_when_the_node_stops(node: Node) -> None:
    node.client.connect()
    node.leased.granted(0, None)
    now(node.house.hub.close())
    assert node.leases.holders == {}
    assert node.upstream.waiting == []
