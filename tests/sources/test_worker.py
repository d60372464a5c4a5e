"""Large documents are read in a second process, and the reactor goes on."""

from __future__ import annotations

import gc
import os
import time
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall, deferLater

from pushd.errors import SourceError
from pushd.event import Document
from pushd.sources.digest import Rules, digest
from pushd.sources.worker import INLINE_BYTES, Worker

JSON = "application/json"


def large(number: int, size: int = 9000) -> bytes:
    stocks = [
        {"symbol": f"S{n}", "price": n + number / 100 if n % 450 == 0 else n, "name": "x" * 50}
        for n in range(size)
    ]
    return msgspec.json.encode(stocks)


@pytest.fixture
def worker() -> Any:
    worker = Worker(reactor)  # type: ignore[arg-type]
    yield worker
    worker.close()
    process = worker._process
    if process is not None:
        pytest_twisted.blockon(_ended(process))


async def _until(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        await deferLater(reactor, 0.01)  # type: ignore[arg-type]
    raise AssertionError("it did not happen")


def _ended(process: Any) -> Deferred[None]:
    return Deferred.fromCoroutine(_until(lambda: process.ended and process.transport.pid is None))


def test_small_documents_need_no_process(worker: Worker) -> None:
    done: list[Any] = []
    d = Deferred.fromCoroutine(worker.digest(None, b"", b"[1]", JSON, Rules()))
    d.addCallback(done.append)
    assert done == [digest(None, b"", b"[1]", JSON, Rules())]
    assert worker._process is None


async def test_large_documents_are_read_the_same_way(worker: Worker) -> None:
    old, new = large(1), large(2)
    assert len(old) > INLINE_BYTES
    first = await worker.digest(None, b"", old, JSON, Rules())
    assert first == digest(None, b"", old, JSON, Rules())
    second = await worker.digest(first.document, b"", new, JSON, Rules())
    assert second == digest(first.document, b"", new, JSON, Rules())
    assert second.payloads[0].name == "patch"


async def test_what_is_wrong_with_a_large_document_is_told(worker: Worker) -> None:
    with pytest.raises(SourceError, match="not valid JSON"):
        await worker.digest(None, b"", large(1)[:-1], JSON, Rules())


async def test_several_questions_wait_for_each_other(worker: Worker) -> None:
    bodies = [large(n) for n in range(3)]
    asked = [
        Deferred.fromCoroutine(worker.digest(None, b"", body, JSON, Rules())) for body in bodies
    ]
    for body, answer in zip(bodies, asked, strict=True):
        assert (await answer).document.data == body


async def test_a_worker_that_dies_is_told_and_replaced(worker: Worker) -> None:
    asked = Deferred.fromCoroutine(worker.digest(None, b"", large(1, 100_000), JSON, Rules()))
    process = worker._process
    assert process is not None and process.transport is not None
    os.kill(process.transport.pid, 9)  # type: ignore[attr-defined]
    with pytest.raises(SourceError, match="died"):
        await asked
    assert (await worker.digest(None, b"", large(2), JSON, Rules())).document.data == large(2)


async def test_cancelling_ends_the_process_and_the_next_question_is_answered(
    worker: Worker,
) -> None:
    asked = Deferred.fromCoroutine(worker.digest(None, b"", large(1, 100_000), JSON, Rules()))
    process = worker._process
    asked.cancel()
    with pytest.raises(CancelledError):
        await asked
    await _ended(process)
    assert (await worker.digest(None, b"", large(2), JSON, Rules())).document.data == large(2)


async def test_ten_megabytes_do_not_hold_the_reactor(worker: Worker) -> None:
    old, new = large(1, 110_000), large(2, 110_000)
    assert len(new) > 9_000_000
    turns = []
    gc.freeze()  # what other tests left behind is not collected in our turns
    for _ in range(4):
        longest, result = await _longest_turn(worker.digest(Document(old), b"", new, JSON, Rules()))
        turns.append(longest)
        assert result.payloads[0].name == "patch"
    gc.unfreeze()
    # The least of several: others may want the processor too.
    assert min(turns) < 0.02, turns


async def _longest_turn(work: Any) -> tuple[float, Any]:
    """How long the reactor was busy with `work` at most, in seconds, and its result."""
    longest, last = 0.0, time.perf_counter()

    def tick() -> None:
        nonlocal longest, last
        seen = time.perf_counter()
        longest, last = max(longest, seen - last), seen

    loop = LoopingCall(tick)
    ticking = loop.start(0.001)
    result = await work
    loop.stop()
    await ticking
    return longest, result
