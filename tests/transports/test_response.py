"""What is left of a request while its answer goes on, and that nothing is when it is over."""

from __future__ import annotations

import gc

import pytest
from served import Connection, Served
from upstream import until

CONFIG = """
[publish]
tokens = ["secret"]
topics = ["news", "other"]
"""
ROUTES = ("/topics/news", "/topics/news?chunked=0", "/events?topic=news&topic=other")


async def stream(served: Served, target: str) -> Connection:
    connection = await served.stream(target, cookie="a=b", user_agent="test/1", origin="http://a")
    await until(lambda: b"id:" in connection.body)
    return connection


@pytest.mark.parametrize("target", ROUTES)
async def test_the_request_and_its_headers_are_gone_as_soon_as_the_stream_has_begun(
    target: str,
) -> None:
    async with Served(CONFIG) as served:
        await stream(served, target)
        (channel,) = served.daemon._site.channels
        (response,) = channel.requests
        assert not hasattr(response, "requestHeaders")
        assert not hasattr(response, "__dict__")


@pytest.mark.parametrize("how", ["abortConnection", "loseConnection", "loseWriteConnection"])
async def test_a_stream_that_ends_leaves_no_cycle_behind(how: str) -> None:
    async with Served(CONFIG) as served:
        await stream(served, "/topics/news")
        gc.collect()
        gc.disable()
        try:
            before = _own()
            streams = [await stream(served, "/topics/news") for _ in range(5)]
            assert _own() > before
            for one in streams:
                getattr(one.transport, how)()
            await until(lambda: len(served.daemon.feeds) == 1)
            await until(lambda: not any(one.open for one in served.connections[1:]))
            served.connections[1:] = []
            del one
            streams.clear()
            await until(lambda: _own() == before)
        finally:
            gc.enable()


def _own() -> int:
    """How many objects there are that a stream is made of."""
    kinds = {"BoundedRequest", "Response", "SSEStream", "Subscription", "Seat", "PushChannel"}
    return sum(type(found).__name__ in kinds for found in gc.get_objects())


async def test_a_stream_that_is_sent_away_gives_its_seat_back_once() -> None:
    async with Served(CONFIG) as served:
        connection = await stream(served, "/topics/news")
        assert served.daemon.admission.streams == 1
        served.daemon.feeds.close()
        await until(lambda: not connection.open)
        assert served.daemon.admission.streams == 0
        assert served.daemon.admission.streams_by_network == {}
