"""
What is remembered of a source's last good answer, so that the same need not be read again.

It counts as long as the topic's document is the one that came of it. Another node
may have changed that since: then an upstream that goes back to what it said before
would be taken for one that has nothing new.
"""

from __future__ import annotations

from collections.abc import Mapping

from pushd.event import Document
from pushd.sources.fetch import Answer
from pushd.topic import DocumentTopic

_VALIDATORS = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
"""RFC 9110, section 13.1: what an answer carries, and how it is asked about."""


class Remembered:
    """
    :param topic: whose document it is.
    """

    def __init__(self, topic: DocumentTopic) -> None:
        self._topic = topic
        self._validators: dict[str, str] = {}
        self._mark = b""
        self._seq = 0
        self._is_recorded = True

    @property
    def document(self) -> Document | None:
        """What the next document is to be told as a change of."""
        return self._topic.document if self._is_recorded else None

    @property
    def mark(self) -> bytes:
        """Of the body, as :mod:`pushd.sources.digest` has it."""
        return self._mark if self._counts else b""

    @property
    def conditions(self) -> Mapping[str, str]:
        """The headers that ask whether there is anything else."""
        return self._validators if self._counts else {}

    @property
    def _counts(self) -> bool:
        return self.document is not None and self._topic.seq == self._seq

    def took(self, answer: Answer, mark: bytes, seq: int) -> None:
        """
        An answer was good, and the document is recorded.

        :param seq: of the document's last change.
        """
        # Only of an answer that was good: a 304 has to mean the document we have.
        self._validators = {
            asked: value for given, asked in _VALIDATORS.items() if (value := answer.header(given))
        }
        self._mark, self._seq = mark, seq
        self._is_recorded = True

    def unrecorded(self) -> None:
        """The history does not hold the document any more: it is to be recorded anew."""
        self._is_recorded = False
