"""``python -m killed``: exit code 1 if anything that was acknowledged was forgotten."""

from __future__ import annotations

import argparse
import random
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from killed.histories import HISTORIES
from killed.nodes import RETURNS
from killed.trial import Plan, Trial

reactor: Any = _reactor


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="killed")
    parser.add_argument("--history", default="sqlite", choices=HISTORIES)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signal", default="KILL", choices=["KILL", "TERM"])
    parser.add_argument("--rate", type=float, default=1000.0, help="messages a second")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--back", default="same", choices=RETURNS)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--folder", help="for what is written; a temporary one")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    how = signal.Signals[f"SIG{given.signal}"]
    plan = Plan(given.history, given.kills, how, given.rate, given.nodes, given.back)
    results: list[Any] = []
    with nullcontext(given.folder) if given.folder else TemporaryDirectory() as folder:
        trial = Trial(plan, given.seed, Path(folder))
        running = Deferred.fromCoroutine(trial.run()).addBoth(results.append)
        running.addBoth(lambda _: reactor.stop())
        reactor.run()
        trial.close()
        (result,) = results
        if isinstance(result, Failure):
            print(result.getTraceback())
        else:
            print(trial.table)
    return 0 if result is True else 1


if __name__ == "__main__":
    sys.exit(main())
