"""An event stream with sse-starlette: ``uvicorn asgi:app``."""

from __future__ import annotations

import asyncio

from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

queues: set[asyncio.Queue[str]] = set()


async def events():
    queue: asyncio.Queue[str] = asyncio.Queue()
    queues.add(queue)
    try:
        while True:
            yield {"data": await queue.get()}
    finally:
        queues.discard(queue)


async def read(request):
    return EventSourceResponse(events())


async def write(request):
    event = (await request.body()).decode()
    for queue in queues:
        queue.put_nowait(event)
    return Response(status_code=201)


app = Starlette(routes=[Route("/", read), Route("/", write, methods=["POST"])])
