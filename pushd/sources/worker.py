"""
A second process for large documents.

Parsing and comparing ten megabytes takes a quarter of a second, most of it
inside calls that hold the interpreter: in a thread it would stop the reactor
just the same. This module is both ends: :class:`Worker`, which a daemon talks
to, and :func:`main`, which ``python -m pushd.sources.worker`` runs. The worker
keeps nothing between two questions. Its input ends when the daemon does, and
then it ends too.

A message is a small part in msgpack and two large ones that nobody needs to
encode: copying ten megabytes is what takes the reactor's time here. Before them
stand their three lengths (four bytes each, big-endian).
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
from pushd.event import Document, Payload
from pushd.sources.digest import Digest, Rules, digest

INLINE_BYTES = 262_144
"""Up to this much, old and new document together, is digested right away: about 5 ms."""

_LENGTHS = struct.Struct(">III")


class Question(msgspec.Struct, frozen=True):
    """
    The small arguments of :func:`~pushd.sources.digest.digest`. The old
    document's data and the body go beside it.

    :ivar old_is_json: None if there is no old document.
    """

    old_is_json: bool | None
    mark: bytes
    content_type: str
    rules: Rules


class Reply(msgspec.Struct, frozen=True):
    """
    What became of it. The new document's data goes beside it.

    :ivar names: of the events.
    :ivar data: of the events; None for one that is the document whole.
    :ivar is_json: None if nothing changed.
    :ivar reason: the :class:`~pushd.errors.SourceError`'s, if there was one.
    """

    names: tuple[str | None, ...] = ()
    data: tuple[bytes | None, ...] = ()
    is_json: bool | None = None
    mark: bytes = b""
    reason: str | None = None

    @classmethod
    def of(cls, digest: Digest) -> tuple[Reply, bytes]:
        """A digest, in its two parts."""
        document, payloads = digest.document, digest.payloads
        if document is None:
            return cls(mark=digest.mark), b""
        names = tuple(payload.name for payload in payloads)
        data = tuple(None if p.data == document.data else p.data for p in payloads)
        return cls(names, data, document.is_json, digest.mark), document.data

    def digest(self, whole: bytes) -> Digest:
        """
        The digest that this and the new document's data are.

        :raises SourceError: the answer could not be read.
        """
        if self.reason is not None:
            raise SourceError(self.reason)
        if self.is_json is None:
            return Digest((), None, self.mark)
        payloads = tuple(
            Payload(name, whole if data is None else data, self.is_json)
            for name, data in zip(self.names, self.data, strict=True)
        )
        return Digest(payloads, Document(whole, self.is_json), self.mark)


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
        self, old: Document | None, mark: bytes, body: bytes, content_type: str, rules: Rules
    ) -> Digest:
        """See :func:`~pushd.sources.digest.digest`. Cancelling ends the process."""
        if len(body) + (len(old.data) if old else 0) <= INLINE_BYTES:
            return digest(old, mark, body, content_type, rules)
        question = Question(old.is_json if old else None, mark, content_type, rules)
        message = _message(question, old.data if old else b"", body)
        reply, whole = await self._lock.run(self._ask, message)
        return reply.digest(whole)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()

    def _ask(self, question: list[bytes]) -> Deferred[tuple[Reply, bytes]]:
        if self._process is None or self._process.ended:
            process = _Process()
            self._reactor.spawnProcess(
                process,
                sys.executable,
                [sys.executable, "-P", "-m", "pushd.sources.worker"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            self._process = process
        return self._process.ask(question)


class _Process(ProcessProtocol):
    """The daemon's end of the pipes. One question at a time."""

    log = Logger(namespace="pushd.sources.worker")

    def __init__(self) -> None:
        self.ended = False
        self._waiting: Deferred[tuple[Reply, bytes]] | None = None
        self._received: list[bytes] = []
        self._size = 0
        self._whole: int | None = None

    def ask(self, question: list[bytes]) -> Deferred[tuple[Reply, bytes]]:
        self._waiting = Deferred(self._cancelled)
        self._received, self._size, self._whole = [], 0, None
        assert self.transport is not None
        self.transport.writeSequence(question)
        return self._waiting

    def _cancelled(self, _: object) -> None:
        self._waiting = None
        self.kill()

    def kill(self) -> None:
        self.ended = True
        assert self.transport is not None
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    def outReceived(self, data: bytes) -> None:
        """Gather a reply; `_whole` is None until its size is known."""
        self._received.append(data)
        self._size += len(data)
        if self._whole is None and self._size >= _LENGTHS.size:
            self._received = [b"".join(self._received)]
            self._whole = _LENGTHS.size + sum(_LENGTHS.unpack_from(self._received[0]))
        if self._size == self._whole and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            message = memoryview(b"".join(self._received))
            end = _LENGTHS.size + _LENGTHS.unpack_from(message)[0]
            reply = msgspec.msgpack.decode(message[_LENGTHS.size : end], type=Reply)
            waiting.callback((reply, bytes(message[end:])))

    def errReceived(self, data: bytes) -> None:
        self.log.error("worker: {data}", data=data.decode(errors="replace"))

    def processEnded(self, reason: Failure) -> None:
        self.ended = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(SourceError("The answer could not be read: its reader died."))


def _message(small: Question | Reply, one: bytes, other: bytes = b"") -> list[bytes]:
    head = msgspec.msgpack.encode(small)
    return [_LENGTHS.pack(len(head), len(one), len(other)), head, one, other]


def answer(question: Question, old_data: bytes, body: bytes) -> tuple[Reply, bytes]:
    """The reply to a question, and the new document's data."""
    is_json = question.old_is_json
    old = None if is_json is None else Document(old_data, is_json)
    try:
        return Reply.of(digest(old, question.mark, body, question.content_type, question.rules))
    except SourceError as error:
        return Reply(reason=error.reason), b""
    except Exception:
        # What is printed here ends up in the daemon's log.
        traceback.print_exc()
        return Reply(reason="pushd could not read the answer; its log says why."), b""


def main(questions: BinaryIO, replies: BinaryIO) -> None:
    """Answer until there are no more questions."""
    while True:
        lengths = questions.read(_LENGTHS.size)
        if len(lengths) < _LENGTHS.size:
            return
        head, old_data, body = (questions.read(length) for length in _LENGTHS.unpack(lengths))
        question = msgspec.msgpack.decode(head, type=Question)
        replies.writelines(_message(*answer(question, old_data, body)))
        replies.flush()


if __name__ == "__main__":
    # Ctrl-C goes to the whole group of processes; the daemon decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(sys.stdin.buffer, sys.stdout.buffer)
