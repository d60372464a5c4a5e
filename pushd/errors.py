"""
What can go wrong in public, named for whoever has to act.

:class:`ClientError` is the client's, :class:`SourceError` the upstream's,
:class:`ConfigError` the operator's, :class:`HistoryError` the history's.
"Not yet" is never an error.
"""

from __future__ import annotations


class PushdError(Exception):
    """Every error that pushd raises on purpose."""


class ClientError(PushdError):
    """
    The client asked for something that it cannot have (RFC 9457).

    :ivar status: the HTTP status, 4xx or 503.
    :ivar detail: a sentence for the person who wrote the client.
    :ivar parameter: the parameter or header that is to blame, if one is.
    :ivar headers: what the answer has to carry besides, such as ``Allow``.
    :ivar extra: further members of the problem document.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        parameter: str | None = None,
        headers: dict[str, str] | None = None,
        extra: dict[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.parameter = parameter
        self.headers = headers or {}
        self.extra = extra or {}


class BusyError(ClientError):
    """
    There is no room now, and there will be: 503 with a time to come back after.
    A stream is not refused but told to wait, as an error would end an
    EventSource for good.

    :ivar why: one word or two for logs and metrics: ``"max_clients"``.
    """

    def __init__(self, why: str, detail: str, retry_after: int = 10) -> None:
        super().__init__(503, detail, headers={"Retry-After": str(retry_after)})
        self.why = why


class SourceError(PushdError):
    """
    The upstream did not give a usable document.

    The message is a sentence that a reader of the page understands. It holds
    no header value and no query, where tokens live.

    :ivar retry_after: seconds that the upstream asked to be left alone.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class ConfigError(PushdError):
    """The configuration is wrong; the message names the file and the key."""


class HistoryError(PushdError):
    """The history cannot record or read just now."""


class OvertakenError(HistoryError):
    """Not recorded, and not to be: another node fills the topic now, or did meanwhile."""


class StartError(PushdError):
    """
    What pushd needs is not there or not its own. The message is the operator's: it names
    the thing, and says what to do.
    """
