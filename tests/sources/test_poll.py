"""The poller: only while watched, conditionally, at its pace, and never silent about trouble."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from files import in_file
from house import House, now
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.web.http_headers import Headers
from zope.interface.verify import verifyObject

from pushd.config import Source
from pushd.errors import HistoryError, OvertakenError, SourceError
from pushd.event import Document
from pushd.interfaces import ISource, Report
from pushd.metrics import Metrics
from pushd.sources.fetch import Answer
from pushd.sources.pace import Slots
from pushd.sources.poll import Poller, Surroundings
from pushd.sources.worker import Worker
from pushd.throttle import Throttle
from pushd.topic import DocumentTopic

URL = "https://api.example/stocks"


class Upstream:
    """Notes what it is asked, and answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.cancelled = 0
        self._waiting: list[Deferred[Answer]] = []

    def fetch(
        self, url: str, headers: Mapping[str, str], *, timeout: float, max_bytes: int
    ) -> Deferred[Answer]:
        assert (url, timeout, max_bytes) == (URL, 10.0, 10_485_760)
        self.asked.append(dict(headers))
        waiting: Deferred[Answer] = Deferred(self._cancel)
        self._waiting.append(waiting)
        return waiting

    def _cancel(self, waiting: Deferred[Answer]) -> None:
        self.cancelled += 1
        self._waiting.remove(waiting)

    @property
    def busy(self) -> int:
        return len(self._waiting)

    def answer(self, body: bytes = b"[1]", status: int = 200, **headers: str) -> None:
        given = {"content_type": "application/json", **headers}
        raw = {name.replace("_", "-"): [value] for name, value in given.items()}
        self._waiting.pop(0).callback(Answer(status, Headers(raw), body))

    def fail(self, error: Exception) -> None:
        self._waiting.pop(0).errback(error)


class Polled:
    """A house with one polled topic, and a client that may come and go."""

    def __init__(self, slot: float = 0.5, house: House | None = None, **options: Any) -> None:
        self.house = house or House()
        self.upstream = Upstream()
        self.metrics = Metrics()
        self.forgotten: list[bool] = []
        self.source = Source(url=URL, topic="stocks", **options)
        around = Surroundings(
            self.house.hub,
            Worker(None),
            self.house.clock,
            self.house.now,
            lambda: 0.5,  # type: ignore[arg-type]
            self.metrics,
            Throttle(self.house.clock),
            Slots(slot),
        )

        def fill(topic: DocumentTopic) -> ISource:
            self.poller = Poller(
                topic,
                self.source,
                URL,
                {"X": "1"},
                around,
                self.upstream,
                lambda: self.forgotten.append(True),  # type: ignore[arg-type]
            )
            return self.poller

        self.topic = now(self.house.hub.document_topic("stocks", fill, 60.0))
        self.client = self.house.client(self.topic)

    def wait(self, seconds: float) -> int:
        """Let time pass, in steps that add up exactly; how many polls were begun meanwhile."""
        before = len(self.upstream.asked)
        self.house.clock.pump([1 / 16] * round(seconds * 16))
        return len(self.upstream.asked) - before

    @property
    def told(self) -> list[str]:
        self.house.turn()
        self.client.receive()
        return [state for _, state in self.client.page.statuses]


@pytest.fixture
def polled() -> Polled:
    return Polled()


def test_it_is_a_source(polled: Polled) -> None:
    verifyObject(ISource, polled.poller)


def test_nothing_is_polled_that_nobody_watches(polled: Polled) -> None:
    assert polled.wait(50) == 0


def test_the_first_watcher_starts_it_and_gets_the_first_answer_at_once(polled: Polled) -> None:
    polled.client.connect()
    assert polled.upstream.asked == [{"X": "1"}]
    polled.upstream.answer(b"[1]")
    polled.house.turn()
    assert polled.client.receive().page.documents == {"": [1]}


def test_the_last_to_leave_stops_it_and_the_poll_under_way(polled: Polled) -> None:
    polled.client.connect().drop()
    assert (polled.upstream.cancelled, polled.upstream.busy) == (1, 0)
    assert polled.wait(50) == 0
    assert polled.topic.status.state == "ok"


def test_coming_and_going_does_not_make_it_ask_a_slow_upstream_each_time(polled: Polled) -> None:
    for _ in range(20):
        polled.client.connect().drop()
    assert len(polled.upstream.asked) == 2
    polled.client.connect()
    assert polled.wait(1) == 1


def test_one_of_two_may_leave(polled: Polled) -> None:
    polled.client.connect()
    polled.house.client(polled.topic).connect().drop()
    assert polled.upstream.cancelled == 0


def test_polls_are_an_interval_apart_after_a_random_first_rest(polled: Polled) -> None:
    polled.client.connect()
    polled.upstream.answer()
    times = []
    for _ in range(64):
        if polled.wait(0.125):
            times.append(polled.house.clock.seconds())
            polled.upstream.answer()
    assert times == [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]


def test_ticks_that_come_late_do_not_add_up(polled: Polled) -> None:
    polled.client.connect()
    for _ in range(300):
        if polled.upstream.busy:
            polled.upstream.answer()
        polled.house.clock.advance(0.37)
    assert len(polled.upstream.asked) == 111


def test_two_sources_that_begin_together_do_not_stay_together() -> None:
    seconds = []
    for slot in (0.0, 0.75):
        polled = Polled(slot)
        polled.client.connect()
        polled.upstream.answer()
        while not polled.wait(0.1):
            pass
        seconds.append(polled.house.clock.seconds() % 1)
    assert sorted(seconds) == [0.0, 0.75]


def test_one_that_began_at_another_time_comes_to_its_place_too(polled: Polled) -> None:
    polled.wait(0.25)
    polled.client.connect()
    polled.upstream.answer()
    for _ in range(3):
        while not polled.wait(1 / 16):
            pass
        assert polled.house.clock.seconds() % 1 == 0.5
        polled.upstream.answer()


def test_one_that_is_called_late_stays_at_its_place(polled: Polled) -> None:
    polled.client.connect()
    polled.upstream.answer()
    polled.house.clock.advance(1.75)
    assert polled.upstream.busy == 1
    polled.upstream.answer()
    assert polled.wait(0.6875) == 0
    assert polled.wait(0.0625) == 1
    assert polled.house.clock.seconds() == 2.5


def test_a_poll_never_overlaps_the_one_before(polled: Polled) -> None:
    polled.client.connect()
    assert polled.wait(9) == 0
    assert polled.upstream.busy == 1
    polled.upstream.answer()
    assert polled.wait(2) == 1


def test_polls_are_conditional(polled: Polled) -> None:
    polled.client.connect()
    polled.upstream.answer(etag='"a"', last_modified="Tue, 14 Nov 2023 22:13:20 GMT")
    polled.wait(1.5)
    assert polled.upstream.asked[-1] == {
        "X": "1",
        "If-None-Match": '"a"',
        "If-Modified-Since": "Tue, 14 Nov 2023 22:13:20 GMT",
    }
    polled.upstream.answer(b"", 304)
    assert polled.told == []
    assert polled.house.hub.head == 1


def test_a_bad_answer_does_not_lend_its_validators(polled: Polled) -> None:
    """Or a 304 would later make a document of it that we never had."""
    polled.client.connect()
    polled.upstream.answer(b"[1]", etag='"good"')
    polled.wait(1.5)
    polled.upstream.answer(b"oops", etag='"bad"')
    polled.wait(2)
    assert polled.upstream.asked[-1]["If-None-Match"] == '"good"'


def test_a_304_that_was_not_asked_for_is_an_error(polled: Polled) -> None:
    polled.client.connect()
    polled.upstream.answer(b"", 304)
    assert polled.told == ["error"]


def test_an_identical_body_is_not_read_again(polled: Polled, monkeypatch: Any) -> None:
    polled.client.connect()
    polled.upstream.answer(b"[1]")
    monkeypatch.setattr("pushd.sources.digest._parsed", None)
    polled.wait(1.5)
    polled.upstream.answer(b"[1]")
    assert polled.told == []


def test_the_upstream_may_ask_for_longer_rests(polled: Polled) -> None:
    polled.client.connect()
    polled.upstream.answer(cache_control="max-age=20")
    assert polled.wait(19.5) == 0
    assert polled.wait(1) == 1
    polled.upstream.answer(b"", 304)
    polled.wait(1.5)
    polled.upstream.answer(b"", 503, retry_after="30")
    assert polled.wait(29.5) == 0
    assert polled.wait(1) == 1


def test_a_rest_counts_from_the_answer_however_long_it_took(polled: Polled) -> None:
    polled.client.connect()
    polled.upstream.answer()
    polled.wait(1.5)
    assert polled.upstream.busy == 1
    polled.wait(0.75)
    polled.upstream.answer(cache_control="max-age=1")
    assert polled.wait(0.75) == 0
    assert polled.wait(0.5) == 1


def test_leaving_and_coming_back_does_not_get_around_a_rest(polled: Polled) -> None:
    polled.client.connect()
    polled.upstream.answer(b"", 429, retry_after="30")
    polled.client.drop().connect()
    assert polled.wait(29) == 0
    assert polled.wait(2) == 1


def test_failures_are_told_once_and_spaced_out(polled: Polled) -> None:
    polled.client.connect()
    times = []
    for _ in range(600):
        if polled.upstream.busy:
            times.append(polled.house.clock.seconds())
            polled.upstream.answer(b"", 500)
        polled.wait(0.1)
    gaps = [b - a for a, b in pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= 1 and gaps[-1] > 10
    assert polled.told == ["error"]


@pytest.mark.parametrize(
    ("body", "status", "headers", "reason"),
    [
        (b"", 500, {}, "The source answered 500 Internal Server Error."),
        (b"", 799, {}, "The source answered 799."),
        (b"[1]", 206, {}, "The source answered 206 Partial Content."),
        (b"", 302, {}, "The source answered 302 Found."),
        (b"[1", 200, {}, "The answer is not valid JSON"),
        (b"", 200, {}, "The answer is empty."),
        (b"<p>", 200, {"content_type": "text/html"}, "The answer is text/html, not JSON."),
    ],
)
def test_trouble_keeps_the_document_and_is_told_with_a_reason(
    polled: Polled, body: bytes, status: int, headers: dict[str, str], reason: str
) -> None:
    polled.client.connect()
    polled.upstream.answer(b"[1]")
    polled.wait(1.5)
    polled.upstream.answer(body, status, **headers)
    assert polled.told == ["error"]
    assert str(polled.topic.status.reason).startswith(reason)
    assert polled.topic.document == Document(b"[1]")
    polled.wait(3)
    polled.upstream.answer(b"[1]")
    assert polled.told == ["error", "ok"]
    assert polled.client.page.documents == {"": [1]}


def test_what_the_fetch_reports_is_passed_on(polled: Polled) -> None:
    polled.client.connect()
    polled.upstream.fail(SourceError("The source did not answer within 10 s."))
    assert polled.topic.status.reason == "The source did not answer within 10 s."


def test_a_bug_does_not_stop_the_poller(polled: Polled) -> None:
    polled.client.connect()
    with capturedLogs() as logged:
        polled.upstream.fail(ZeroDivisionError())
    assert polled.told == ["error"]
    assert [event for event in logged if "log_failure" in event]
    assert polled.wait(3) == 1


def test_what_cannot_be_recorded_is_tried_again(polled: Polled, monkeypatch: Any) -> None:
    polled.client.connect()
    with monkeypatch.context() as patched:
        patched.setattr(
            polled.house.hub, "publish", lambda draft: _failed(HistoryError("The disk is full."))
        )
        polled.upstream.answer(b"[1]", etag='"a"')
    assert "The disk is full." in str(polled.topic.status.reason)
    polled.wait(3)
    assert "If-None-Match" not in polled.upstream.asked[-1]
    polled.upstream.answer(b"[1]", etag='"a"')
    assert polled.told == ["error", "ok"]
    assert polled.client.page.documents == {"": [1]}


def _failed(error: Exception) -> Deferred[Any]:
    waiting: Deferred[Any] = Deferred()
    waiting.errback(error)
    return waiting


def test_a_source_that_is_silent_goes_stale_and_recovers() -> None:
    polled = Polled(stale_after=5.0, timeout=10.0)
    polled.client.connect()
    polled.upstream.answer()
    polled.wait(4.9)
    assert polled.told == []
    polled.wait(0.2)
    assert polled.told == ["stale"]
    polled.upstream.answer()
    assert polled.told == ["stale", "ok"]


def test_a_document_that_is_declared_fresh_is_not_stale() -> None:
    polled = Polled(stale_after=5.0)
    polled.client.connect()
    polled.upstream.answer(cache_control="max-age=60")
    polled.wait(59)
    assert polled.told == []


def test_who_comes_after_a_long_silence_hears_that_the_document_is_old() -> None:
    polled = Polled(stale_after=5.0)
    polled.client.connect()
    polled.upstream.answer()
    polled.client.receive().drop()
    polled.wait(6)
    polled.client.connect()
    polled.wait(1)
    assert polled.told == ["stale"]
    polled.upstream.answer()
    assert polled.told == ["stale", "ok"]


def test_who_comes_after_a_long_silence_hears_nothing_if_the_source_answers_soon() -> None:
    polled = Polled(stale_after=5.0)
    polled.client.connect()
    polled.upstream.answer()
    polled.client.receive().drop()
    polled.wait(6)
    polled.client.connect()
    polled.wait(0.5)
    polled.upstream.answer()
    polled.wait(2)
    assert polled.told == []


def test_a_reload_loses_neither_the_document_nor_the_place(polled: Polled) -> None:
    polled.client.connect()
    polled.upstream.answer(b"[1]", etag='"a"')
    polled.house.turn()
    polled.client.receive().drop()
    polled.wait(0.5)
    polled.client.connect()
    assert b"event:" not in polled.client.buffer
    reloaded = polled.house.client(polled.topic).connect().receive()
    assert reloaded.page.documents == {"": [1]}
    polled.wait(1.5)
    assert polled.upstream.asked[-1]["If-None-Match"] == '"a"'


def test_refreshing_an_unwatched_topic_polls_once(polled: Polled) -> None:
    polled.house.hub.watch(polled.topic)
    refreshed = polled.house.hub.refresh(polled.topic)
    assert not refreshed.called
    polled.upstream.answer(b"[7]")
    assert refreshed.called
    polled.house.hub.unwatch(polled.topic)
    assert polled.wait(20) == 0
    assert polled.topic.document == Document(b"[7]")


def test_refreshing_again_within_the_interval_does_not_poll(polled: Polled) -> None:
    test_refreshing_an_unwatched_topic_polls_once(polled)
    for polls in (1, 0):
        polled.house.hub.watch(polled.topic)
        refreshed = polled.house.hub.refresh(polled.topic)
        assert refreshed.called is not bool(polls)
        assert polled.upstream.busy == polls
        if polls:
            polled.upstream.answer()
        polled.house.hub.unwatch(polled.topic)


def test_gone_ends_the_topic(polled: Polled) -> None:
    polled.client.connect()
    polled.upstream.answer(b"[1]")
    polled.wait(1.5)
    polled.upstream.answer(b"", 410)
    assert polled.client.finished and polled.topic.ended
    assert polled.told == ["error"]
    assert polled.wait(50) == 0


def test_who_comes_to_what_is_gone_does_not_make_it_ask_again(polled: Polled) -> None:
    polled.client.connect()
    polled.upstream.answer(b"", 410)
    polled.house.hub.watch(polled.topic)
    assert polled.wait(5) == 0
    polled.house.hub.unwatch(polled.topic)


def test_leaving_while_an_answer_is_recorded_does_not_record_it_twice(
    polled: Polled, monkeypatch: Any
) -> None:
    publish = polled.house.hub.publish
    held: list[Any] = []

    def slowly(draft: Any) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred()
        held.append(lambda: publish(draft).chainDeferred(waiting))
        return waiting

    monkeypatch.setattr(polled.house.hub, "publish", slowly)
    polled.client.connect()
    polled.upstream.answer(b"[1]")
    polled.client.drop().connect()
    assert len(polled.upstream.asked) == 1
    held.pop()()
    assert polled.told == []
    assert polled.client.page.documents == {"": [1]}
    assert polled.wait(2) >= 1


def test_a_topic_that_nobody_wants_is_forgotten(polled: Polled) -> None:
    polled.client.connect().drop()
    polled.wait(61)
    assert polled.forgotten == [True]
    assert polled.house.clock.getDelayedCalls() == []


def counted(polled: Polled) -> dict[str, int]:
    """Polls by their outcome."""
    found = re.findall(
        r'pushd_polls_total{outcome="(.*)",source="stocks"} (.*)',
        polled.metrics.expose()[0].decode(),
    )
    return {outcome: int(float(number)) for outcome, number in found if float(number)}


def test_each_poll_is_counted_once_by_what_came_of_it(polled: Polled) -> None:
    assert counted(polled) == {}
    polled.client.connect()
    polled.upstream.answer(b"[1]", etag='"a"')
    assert counted(polled) == {"changed": 1}
    for answer, counts in (
        ((b"[1]",), {"changed": 1, "same": 1}),
        ((b"[1 ]",), {"changed": 1, "same": 2}),
        ((b"[2]", 200), {"changed": 2, "same": 2}),
        ((b"", 500), {"changed": 2, "same": 2, "failed": 1}),
        ((b"[3",), {"changed": 2, "same": 2, "failed": 2}),
        ((b"", 410), {"changed": 2, "same": 2, "failed": 2, "gone": 1}),
    ):
        while not polled.upstream.busy:
            polled.wait(0.5)
        polled.upstream.answer(*answer)
        assert counted(polled) == counts


def test_a_304_is_counted_as_not_modified(polled: Polled) -> None:
    polled.client.connect()
    polled.upstream.answer(b"[1]", etag='"a"')
    polled.wait(1.5)
    polled.upstream.answer(b"", 304)
    assert counted(polled) == {"changed": 1, "not modified": 1}


def test_a_poll_that_nobody_waits_for_any_more_is_counted_as_cancelled(polled: Polled) -> None:
    polled.client.connect().drop()
    assert counted(polled) == {"cancelled": 1}
    polled.wait(1)
    polled.client.connect()
    polled.upstream.fail(SourceError("The source refused the connection."))
    assert counted(polled) == {"cancelled": 1, "failed": 1}


def test_what_could_not_be_recorded_and_what_broke_are_counted_as_failed(
    polled: Polled, monkeypatch: Any
) -> None:
    polled.client.connect()
    with monkeypatch.context() as patched, capturedLogs():
        for error in (HistoryError("The disk is full."), ZeroDivisionError()):
            patched.setattr(polled.house.hub, "publish", lambda _, error=error: _failed(error))
            while not polled.upstream.busy:
                polled.wait(0.5)
            polled.upstream.answer(b"[1]")
    assert counted(polled) == {"failed": 2}


def test_a_change_says_which_one_it_goes_on_from(polled: Polled, monkeypatch: Any) -> None:
    drafts: list[Any] = []
    publish = polled.house.hub.publish
    monkeypatch.setattr(polled.house.hub, "publish", lambda d: drafts.append(d) or publish(d))
    polled.client.connect()
    polled.upstream.answer(b"[1]")
    polled.wait(1.5)
    polled.upstream.answer(b"[2]")
    assert [draft.after for draft in drafts] == [0, 1]


def test_what_is_known_of_the_last_answer_does_not_count_once_another_node_changed_the_document(
    polled: Polled,
) -> None:
    """Or an upstream that goes back to what it said before would not be heard."""
    polled.client.connect()
    polled.upstream.answer(b"[1]", etag='"a"')
    polled.house.snapshot("stocks", [2])
    polled.wait(1.5)
    assert "If-None-Match" not in polled.upstream.asked[-1]
    polled.upstream.answer(b"[1]", etag='"a"')
    polled.house.turn()
    assert polled.client.receive().page.documents == {"": [1]}
    polled.wait(1)
    assert polled.upstream.asked[-1]["If-None-Match"] == '"a"'


def test_that_another_node_was_first_is_no_trouble_of_the_source(
    polled: Polled, monkeypatch: Any
) -> None:
    overtaken: list[bool] = []
    polled.poller.overtaken = lambda: overtaken.append(polled.upstream.busy == 0)
    polled.client.connect()
    with monkeypatch.context() as patched:
        patched.setattr(
            polled.house.hub, "publish", lambda _: _failed(OvertakenError("Another node has it."))
        )
        polled.upstream.answer(b"[1]")
    assert overtaken == [True]
    assert polled.told == []
    assert counted(polled) == {"overtaken": 1}
    assert polled.wait(0.9) == 0
    assert polled.wait(1) == 1


def test_what_another_node_has_forgotten_is_recorded_again_once(polled: Polled) -> None:
    """Or nobody who comes later would have a document before it changes."""
    polled.client.connect()
    polled.upstream.answer(b"[1]", etag='"a"')
    polled.poller.unrecorded()
    polled.wait(1.5)
    assert "If-None-Match" not in polled.upstream.asked[-1]
    polled.upstream.answer(b"[1]", etag='"a"')
    assert polled.house.hub.head == 2
    polled.wait(1)
    assert polled.upstream.asked[-1]["If-None-Match"] == '"a"'
    polled.upstream.answer(b"[1]")
    assert polled.house.hub.head == 2


def test_whoever_takes_over_is_told_how_long_the_source_is_to_be_left_alone(
    polled: Polled,
) -> None:
    assert polled.poller.report() == Report("ok", None, 0.0)
    polled.client.connect()
    assert polled.poller.report() == Report("ok", None, 1.0)
    polled.upstream.answer(b"", 503, retry_after="30")
    reason = "The source answered 503 Service Unavailable."
    assert polled.poller.report() == Report("error", reason, 30.0)
    polled.wait(10)
    assert polled.poller.report().rest == 20.0


def test_who_took_over_leaves_it_alone_and_tells_its_readers(polled: Polled) -> None:
    polled.poller.heard(Report("error", "Why.", 20.0))
    polled.client.connect()
    assert polled.told == ["error"]
    assert polled.wait(19.9) == 0
    assert polled.wait(0.2) == 1


def test_failures_from_before_another_node_did_well_do_not_count(polled: Polled) -> None:
    polled.client.connect()
    for _ in range(5):
        polled.upstream.answer(b"", 500)
        while not polled.upstream.busy:
            polled.wait(0.5)
    polled.client.drop()
    polled.poller.heard(Report("ok"))
    polled.client.connect()
    while not polled.upstream.busy:
        polled.wait(0.5)
    polled.upstream.answer(b"", 500)
    assert polled.poller.report().rest <= 2


def test_who_takes_over_need_not_all_begin_at_once(polled: Polled) -> None:
    polled.house.snapshot("stocks", [1])
    polled.poller.heard(Report("ok"), is_last=True)
    polled.client.connect()
    assert polled.wait(0.4) == 0
    assert polled.wait(0.2) == 1


def test_a_first_document_does_not_wait_for_that(polled: Polled) -> None:
    polled.poller.heard(Report("ok"), is_last=True)
    polled.client.connect()
    assert polled.upstream.busy == 1


def test_after_a_restart_the_first_answer_is_told_from_the_kept_document(tmp_path: Path) -> None:
    def house() -> House:
        return House(
            history=lambda keep, clock, now: in_file(tmp_path / "pushd.db", keep, clock, now)
        )

    one = Polled(house=house())
    one.client.connect()
    one.upstream.answer(b'{"a":1,"pad":"%s"}' % (b"x" * 100))
    one.house.turn()
    one.client.receive().drop()
    now(one.house.hub.close())

    other = Polled(house=house())
    other.client.page, other.client.parser = one.client.page, one.client.parser
    other.client.connect()
    other.upstream.answer(b'{"a":2,"pad":"%s"}' % (b"x" * 100))
    other.house.turn()
    assert b"event: patch" in other.client.buffer and b"snapshot" not in other.client.buffer
    assert other.client.receive().page.documents[""] == {"a": 2, "pad": "x" * 100}
    other.client.drop()
    now(other.house.hub.close())
