"""What came of it: counts, of which some have to be zero."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

MUST_BE_ZERO = (
    "messages lost",
    "messages doubled or out of order",
    "wrong documents",
    "documents that are not the newest",
    "answers that are wrong",
    "connections refused",
    "requests without an answer",
    "restarts that went wrong",
    "tracebacks in the log",
    "memory that grew",
)

MOST_NOTES = 8
"""Of each kind."""


class Tally:
    """
    :param must_be_zero: which of the counts have to be.
    :ivar counts: by name.
    :ivar notes: the first things that went wrong, in words.
    """

    def __init__(self, must_be_zero: Sequence[str] = MUST_BE_ZERO) -> None:
        self.must_be_zero = must_be_zero
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self._noted: Counter[str] = Counter()

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] += number

    def wrong(self, what: str, note: str, number: int = 1) -> None:
        assert what in self.must_be_zero, what
        self.counts[what] += number
        if self._noted[what] < MOST_NOTES:
            self._noted[what] += 1
            self.notes.append(f"{what}: {note}")

    @property
    def failed(self) -> bool:
        return any(self.counts[what] for what in self.must_be_zero)

    def table(self, rows: list[tuple[str, str]]) -> str:
        lines = [*rows, *((what, f"{self.counts[what]:,}") for what in self.must_be_zero)]
        widest = max(len(name) for name, _ in lines)
        written = []
        for name, value in lines:
            must = "   has to be 0" if name in self.must_be_zero else ""
            fail = "   <-----" if name in self.must_be_zero and value != "0" else ""
            written.append(f"  {name:{widest}}  {value:>12}{must}{fail}")
        return "\n".join([*written, *(f"  ! {note}" for note in self.notes)])
