"""
One connection to Redis, as long as it lasts: commands out, replies in, in the same order.

Only RESP (redis.io, "Redis serialization protocol specification", version 2), which
hiredis reads and writes. What becomes of commands when the connection ends is
their senders' to say.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any, cast

import hiredis
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from pushd.errors import PushdError

_IN_SCRIPT = re.compile(r"^ERR Error running script [^@]*(?:@user_script: ?\d+: )+-?")
"""What Redis 6.2 puts before what a command in a script was answered."""

_FORBIDDEN = re.compile(r"(?:ERR )?The user executing the script can't")
"""How that begins where it was not permitted: with another code than outside, or none."""


class Refused(PushdError):
    """
    What Redis answers when it does not do what it was asked.

    :ivar code: its first word: ``"NOPERM"``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        said = _IN_SCRIPT.sub("", message)
        self.code = "NOPERM" if _FORBIDDEN.match(said) else said.partition(" ")[0]


class StrangeError(PushdError):
    """What answers is no Redis, or says what nobody asked."""


class RedisProtocol(Protocol):
    """:ivar lost: fires with None when the connection has ended."""

    def __init__(self) -> None:
        self.lost: Deferred[None] = Deferred()
        self._reader = hiredis.Reader(replyError=Refused, notEnoughData=_NOT_YET)
        self._asked: deque[Deferred[Any]] = deque()
        self._strange: Failure | None = None

    def ask(self, *command: bytes | str | int | float) -> Deferred[Any]:
        """
        Send a command. Fires with the reply (bytes, an int, None, or a list of those), fails with
        :class:`Refused`, or with why the connection ended before there was one.
        """
        reply: Deferred[Any] = Deferred()
        self._asked.append(reply)
        cast("ITCPTransport", self.transport).write(
            hiredis.pack_command(cast("tuple[Any]", command))
        )
        return reply

    def dataReceived(self, data: bytes) -> None:
        """Hand each reply to who asked first."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOT_YET:
                asked = self._asked.popleft()
                if isinstance(reply, Refused):
                    asked.errback(Failure(reply))
                else:
                    asked.callback(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self._strange = Failure(StrangeError(str(error)))
            self.abort()

    def abort(self) -> None:
        """End it now."""
        if not self.lost.called:
            cast("ITCPTransport", self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell all who wait for a reply."""
        self.lost.callback(None)
        asked, self._asked = self._asked, deque()
        for one in asked:
            one.errback(self._strange or reason)


_NOT_YET = object()
