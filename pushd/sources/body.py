"""
The body of an answer while it arrives: counted, decompressed, kept.

However small it is on the wire and however large it would become: no more is
inflated than is allowed. What a body means is :mod:`pushd.sources.digest`'s.
"""

from __future__ import annotations

import zlib

from pushd.errors import SourceError

_INFLATED_AT_ONCE = 65_536
"""Bytes; what one step of decompression may add to what a body already has."""


class Body:
    """
    :param window: zlib's wbits; None if it is not compressed.
    :param length: what Content-Length promises; None if it does not say.
    :raises SourceError: that is too much.
    """

    def __init__(self, window: int | None, limit: int, length: int | None) -> None:
        self._window = window
        self._limit = limit
        # What grows when compressed is small or malicious (empty blocks without end).
        self._wire_limit = limit if window is None else 2 * limit + 1024
        self._received = 0
        self._inflater: zlib._Decompress | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        if length is not None:
            self._check(length, self._wire_limit)

    def add(self, data: bytes) -> None:
        """
        The next bytes from the wire.

        :raises SourceError: they are too many, or not what they should be.
        """
        self._received += len(data)
        self._check(self._received, self._wire_limit)
        if self._window is None:
            self._keep(data)
        else:
            self._inflate(data, self._window)

    def whole(self) -> bytes:
        """
        All of it, once there is no more to come.

        :raises SourceError: the compressed data stops in the middle.
        """
        if self._window is not None and (self._inflater is None or not self._inflater.eof):
            raise SourceError("The compressed answer is incomplete.")
        return b"".join(self._pieces)

    def _inflate(self, data: bytes, window: int) -> None:
        try:
            while data:
                if self._inflater is None or self._inflater.eof:
                    # Past the end comes the next member (RFC 1952, section 2.2), or garbage.
                    self._inflater = zlib.decompressobj(window)
                self._keep(self._inflater.decompress(data, _INFLATED_AT_ONCE))
                data = self._inflater.unconsumed_tail or self._inflater.unused_data
        except zlib.error as error:
            raise SourceError("The compressed answer is damaged.") from error

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        self._check(self._size, self._limit)
        self._pieces.append(piece)

    def _check(self, size: int, allowed: int) -> None:
        if size > allowed:
            raise SourceError(f"The answer is larger than {self._limit} bytes.")
