"""What is remembered of the last answer counts for the document that came of it, and no other."""

from __future__ import annotations

import pytest
from twisted.web.http_headers import Headers

from pushd.event import Document, Event, Payload
from pushd.sources.fetch import Answer
from pushd.sources.remembered import Remembered
from pushd.topic import DocumentTopic

ANSWER = Answer(200, Headers({"ETag": ['"a"'], "Last-Modified": ["yesterday"]}), b"[1]")
CONDITIONS = {"If-None-Match": '"a"', "If-Modified-Since": "yesterday"}


def change(topic: DocumentTopic, seq: int, data: bytes) -> None:
    event = Event(seq, topic.key, Payload("snapshot", data), 0.0)
    topic.record([event], Document(data))


@pytest.fixture
def topic() -> DocumentTopic:
    return DocumentTopic("d", 0)


@pytest.fixture
def remembered(topic: DocumentTopic) -> Remembered:
    remembered = Remembered(topic)
    change(topic, 1, b"[1]")
    remembered.took(ANSWER, b"mark", 1)
    return remembered


def test_of_nothing_nothing_is_remembered(topic: DocumentTopic) -> None:
    remembered = Remembered(topic)
    assert (remembered.document, remembered.mark, remembered.conditions) == (None, b"", {})


def test_an_answer_is_asked_about_by_its_validators(remembered: Remembered) -> None:
    assert remembered.document == Document(b"[1]")
    assert (remembered.mark, remembered.conditions) == (b"mark", CONDITIONS)


def test_it_counts_no_more_when_another_node_has_changed_the_document(
    remembered: Remembered, topic: DocumentTopic
) -> None:
    change(topic, 2, b"[2]")
    assert remembered.document == Document(b"[2]")
    assert (remembered.mark, remembered.conditions) == (b"", {})
    # Not even if it is the same as before.
    change(topic, 3, b"[1]")
    assert (remembered.mark, remembered.conditions) == (b"", {})


def test_what_is_to_be_recorded_anew_is_a_change_of_nothing(remembered: Remembered) -> None:
    remembered.unrecorded()
    assert (remembered.document, remembered.mark, remembered.conditions) == (None, b"", {})
    remembered.took(ANSWER, b"mark", 1)
    assert (remembered.document, remembered.mark) == (Document(b"[1]"), b"mark")
