"""Polls with treq and nothing around it: ``bare_treq.py PORT``."""

from __future__ import annotations

import sys

import treq
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.web.client import HTTPConnectionPool

AT_ONCE = 100


async def poll(url, pool):
    while True:
        answer = await treq.get(url, headers={"If-None-Match": '"same"'}, pool=pool)
        await answer.content()


def main():
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = AT_ONCE
    for n in range(AT_ONCE):
        ensureDeferred(poll(f"http://127.0.0.1:{sys.argv[1]}/same/{n}", pool))
    reactor.run()


if __name__ == "__main__":
    main()
