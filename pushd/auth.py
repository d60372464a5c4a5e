"""
Who may publish, and how much: bearer tokens (RFC 6750).

Tokens are compared in constant time and never leave this module again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hmac import compare_digest

from pushd.errors import ClientError


class Tokens:
    """
    The tokens that open a door.

    :param tokens: any of them does; with none, nobody gets in.
    :param max_rate: how often a second each of them does. A second's worth may
        come at once, and one in any case.
    :param seconds: the time, by a clock that nobody sets.
    """

    def __init__(
        self, tokens: Sequence[str], max_rate: float, seconds: Callable[[], float]
    ) -> None:
        self._tokens = [token.encode() for token in tokens]
        self._interval = 1 / max_rate
        self._burst = max(1.0, max_rate)
        self._seconds = seconds
        # By token, when all that it was used for will have had its interval: one
        # number for what a bucket would need two.
        self._due = [-math.inf] * len(self._tokens)

    def admit(self, authorization: str | None, access_token: str | None) -> None:
        """
        Let a request through, or raise.

        It is charged for as soon as its token is known to be good, whatever
        becomes of it: what is refused later has been read and parsed all the
        same. What is refused here costs nothing.

        :param authorization: the header's value.
        :param access_token: the query parameter's value.
        :raises ClientError: 403, there is no token that would do; 401, this one
            does not; 429, it is used too often.
        """
        if not self._tokens:
            raise ClientError(403, "Publishing is off: the configuration has no publish.tokens.")
        found = self._compared(authorization, access_token)
        if not any(found):
            raise ClientError(
                401,
                "Publishing needs a valid token: Authorization: Bearer TOKEN.",
                headers={"WWW-Authenticate": 'Bearer realm="pushd"'},
            )
        self._charge(found.index(True))

    def known(self, authorization: str | None, access_token: str | None) -> bool:
        """Whether it is a good one, whether it is used up or not. Charges nothing."""
        return any(self._compared(authorization, access_token))

    def _compared(self, authorization: str | None, access_token: str | None) -> list[bool]:
        scheme, _, token = (authorization or "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else access_token or ""
        # All are compared, so that the time does not tell which one was near.
        return [compare_digest(given.encode(errors="replace"), token) for token in self._tokens]

    def _charge(self, index: int) -> None:
        """Raises ClientError, if the token was used up."""
        now = self._seconds()
        due = max(now, self._due[index]) + self._interval
        wait = due - now - self._burst * self._interval
        # The sums are not exact: some of the interval may be missing.
        if wait > self._interval / 100:
            raise ClientError(
                429,
                f"With this token {1 / self._interval:g} messages a second may be published "
                "(publish.max_rate).",
                headers={"Retry-After": str(math.ceil(wait))},
            )
        self._due[index] = due
