"""The files that the daemon serves to browsers: its pages and what they need."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.static import File

from pushd.errors import ClientError

_STATIC = Path(str(files("pushd") / "static"))


class Pages:
    """
    :param front: the file that ``/`` is; None for a daemon without a page there.
    """

    def __init__(self, front: str | None) -> None:
        self._front = front
        self._names = frozenset(path.name for path in _STATIC.iterdir() if path.is_file())

    def front(self, request: IRequest) -> Resource:
        """``GET /``."""
        if self._front is None:
            raise ClientError(
                404, "There is no page here. Read /topics/TOPIC or /events?topic=TOPIC."
            )
        return self.static(request, self._front)

    def static(self, request: IRequest, name: str) -> Resource:
        """``GET /static/{name}``. Raises ClientError."""
        if name not in self._names:
            raise ClientError(404, f"There is no file {name!r}.")
        request.setHeader("Cache-Control", "no-cache")
        request.setHeader("Content-Security-Policy", "default-src 'self'; img-src 'self' data:")
        request.setHeader("X-Content-Type-Options", "nosniff")
        file = File(str(_STATIC / name))
        file.isLeaf = True  # or Klein looks for a child of it, by the rest of the path
        return file
