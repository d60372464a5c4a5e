"""
How much thinking a comparison may cost.

Counted, not timed: a slow machine takes longer, but it finds the same answer.
"""

from __future__ import annotations


class TooMuchWork(Exception):
    """It costs too much to say how the values differ."""


class TooFarApart(Exception):
    """The values differ in so much that it is not worth saying how."""


class Work:
    """
    How much may still be spent, in nanoseconds of an ordinary machine.

    Prices come from a rough list, not from a clock: a slow machine takes longer, but it finds
    the same answer.
    """

    def __init__(self, left: int) -> None:
        self.left = left

    def affords(self, price: int) -> bool:
        """Pay, and say whether there was enough."""
        self.left -= price
        return self.left >= 0

    def spend(self, price: int) -> None:
        """Pay, or raise :class:`TooMuchWork`."""
        if not self.affords(price):
            raise TooMuchWork
