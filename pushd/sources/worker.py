"""
A second process for large documents.

Parsing and comparing ten megabytes takes a quarter of a second, most of it
inside calls that hold the interpreter: in a thread it would stop the reactor
just the same. This module is both ends: :class:`Worker`, which a daemon talks
to, and :func:`main`, which ``python -m pushd.sources.worker`` runs. The worker
keeps nothing between two questions. Its input ends when the daemon does, and
then it ends too.

A message is its length (four bytes, big-endian) and msgpack.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import traceback
from contextlib import suppress
from typing import BinaryIO

import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import SourceError
from pushd.event import Document
from pushd.sources.digest import Digest, Rules, digest

INLINE_BYTES = 262_144
"""Up to this much, old and new document together, is digested right away: about 5 ms."""

_LENGTH = struct.Struct(">I")


class Question(msgspec.Struct, frozen=True):
    """The arguments of :func:`~pushd.sources.digest.digest`."""

    old: Document | None
    body: bytes
    content_type: str
    rules: Rules


class Reply(msgspec.Struct, frozen=True):
    """What became of it: a digest, or the reason of a SourceError."""

    digest: Digest | None
    reason: str | None = None


class Worker:
    """
    Digests answers: small ones at once, large ones in the second process,
    which is started when it is first needed.
    """

    def __init__(self, reactor: IReactorProcess) -> None:
        self._reactor = reactor
        self._lock = DeferredLock()
        self._process: _Process | None = None

    async def digest(
        self, old: Document | None, body: bytes, content_type: str, rules: Rules
    ) -> Digest:
        """See :func:`~pushd.sources.digest.digest`. Cancelling ends the process."""
        if len(body) + (len(old.data) if old else 0) <= INLINE_BYTES:
            return digest(old, body, content_type, rules)
        question = Question(old, body, content_type, rules)
        reply = await self._lock.run(self._ask, msgspec.msgpack.encode(question))
        if reply.digest is None:
            raise SourceError(reply.reason or "The answer cannot be read.")
        return reply.digest

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()

    def _ask(self, question: bytes) -> Deferred[Reply]:
        if self._process is None or self._process.ended:
            self._process = _Process()
            self._reactor.spawnProcess(
                self._process,
                sys.executable,
                [sys.executable, "-P", "-m", "pushd.sources.worker"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        return self._process.ask(question)


class _Process(ProcessProtocol):
    """The daemon's end of the pipes. One question at a time."""

    log = Logger(namespace="pushd.sources.worker")

    def __init__(self) -> None:
        self.ended = False
        self._waiting: Deferred[Reply] | None = None
        self._received: list[bytes] = []
        self._missing = 0

    def ask(self, question: bytes) -> Deferred[Reply]:
        self._waiting = Deferred(lambda _: self.kill())
        self._received = []
        self._missing = -_LENGTH.size
        assert self.transport is not None
        self.transport.writeSequence([_LENGTH.pack(len(question)), question])
        return self._waiting

    def kill(self) -> None:
        self.ended = True
        assert self.transport is not None
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    def outReceived(self, data: bytes) -> None:
        """Gather a reply; `_missing` is negative until its length is known."""
        self._received.append(data)
        if self._missing < 0:
            head = b"".join(self._received)
            if len(head) < _LENGTH.size:
                return
            self._received = [head[_LENGTH.size :]]
            (self._missing,) = _LENGTH.unpack_from(head)
            data = self._received[0]
        self._missing -= len(data)
        if self._missing == 0 and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(msgspec.msgpack.decode(b"".join(self._received), type=Reply))

    def errReceived(self, data: bytes) -> None:
        self.log.error("worker: {data}", data=data.decode(errors="replace"))

    def processEnded(self, reason: Failure) -> None:
        self.ended = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.errback(SourceError("The answer could not be read: its reader died."))


def answer(question: bytes) -> bytes:
    """The reply to a question, both in msgpack."""
    asked = msgspec.msgpack.decode(question, type=Question)
    try:
        reply = Reply(digest(asked.old, asked.body, asked.content_type, asked.rules))
    except SourceError as error:
        reply = Reply(None, error.reason)
    except Exception:
        # What is printed here ends up in the daemon's log.
        traceback.print_exc()
        reply = Reply(None, "pushd could not read the answer; its log says why.")
    return msgspec.msgpack.encode(reply)


def main(questions: BinaryIO, replies: BinaryIO) -> None:
    """Answer until there are no more questions."""
    while True:
        head = questions.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return
        reply = answer(questions.read(*_LENGTH.unpack(head)))
        replies.write(_LENGTH.pack(len(reply)) + reply)
        replies.flush()


if __name__ == "__main__":
    # Ctrl-C goes to the whole group of processes; the daemon decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(sys.stdin.buffer, sys.stdout.buffer)
