"""
Who may publish: bearer tokens (RFC 6750).

Tokens are compared in constant time and never leave this module again.
"""

from __future__ import annotations

from collections.abc import Sequence
from hmac import compare_digest

from pushd.errors import ClientError


class Tokens:
    """
    The tokens that open a door.

    :param tokens: any of them does; with none, nobody gets in.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = [token.encode() for token in tokens]

    def admit(self, authorization: str | None, access_token: str | None) -> None:
        """
        Let a request through, or raise.

        :param authorization: the header's value.
        :param access_token: the query parameter's value.
        :raises ClientError: 403, there is no token that would do; 401, this one does not.
        """
        if not self._tokens:
            raise ClientError(403, "Publishing is off: the configuration has no publish.tokens.")
        scheme, _, token = (authorization or "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else access_token or ""
        # All are compared, so that the time does not tell which one was near.
        found = [compare_digest(given.encode(errors="replace"), token) for token in self._tokens]
        if not any(found):
            raise ClientError(
                401,
                "Publishing needs a valid token: Authorization: Bearer TOKEN.",
                headers={"WWW-Authenticate": 'Bearer realm="pushd"'},
            )
