"""twistd with a timer every millisecond, which says by how many milliseconds it came too late."""

from __future__ import annotations

import sys

from twisted.internet import epollreactor
from twisted.scripts.twistd import run

EVERY = 0.001
"""Seconds between two looks."""


def main() -> None:
    """Run it."""
    epollreactor.install()
    from twisted.internet import reactor  # noqa: PLC0415  # it was installed just now

    clock: epollreactor.EPollReactor = reactor  # type: ignore[assignment]  # it is a module there

    def look(due: float) -> None:
        late = clock.seconds() - due
        if late > EVERY:
            print(f"late {late * 1000:.2f}", file=sys.__stdout__, flush=True)
        clock.callLater(EVERY, look, clock.seconds() + EVERY)

    clock.callWhenRunning(look, clock.seconds())
    run()


if __name__ == "__main__":
    main()
