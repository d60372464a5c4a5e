"""
``python -m benchmarks [NAME ...]``: runs the benchmarks, all if none is named.

Runs go round: each benchmark has one run of each peer before the next begins, so that a
neighbour who is noisy for a while is so to all.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks import machine
from benchmarks.benchmark import Benchmark, Figures
from benchmarks.clients import Clients
from benchmarks.fanout import FanOut, Many
from benchmarks.polls import Polls
from benchmarks.processes import Processes
from benchmarks.storm import Storm
from benchmarks.table import missed, table
from benchmarks.users import Users

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (FanOut(), Clients(), Many(), Users(), Polls(), Storm(), Processes())
}
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run, tell, and write the JSON file. The exit code says whether all could be measured."""
    options = _options()
    where = machine.description()
    busy = machine.busy()
    print(f"{where['cpu']}, {where['cores']} cores, Python {where['python']}, {where['commit']}")
    if where["cores"] == 1:
        print("ONE CORE: server and load generator share it, so times tell little.")
    if busy > machine.QUIET:
        print(f"NOT QUIET: others are using {busy:.2f} cores.")
    names = options.names or list(BENCHMARKS)
    results: dict[str, dict[str, list[Figures]]] = {}
    failures = []
    for name in names:
        results[name] = {}
        failures += _measure(BENCHMARKS[name], options, results[name])
    print("\n" + table(results, BENCHMARKS) + "\n")
    for what in (*failures, *missed(results, BENCHMARKS)):
        print(f"MISSED  {what}")
    path = Path(options.json or RESULTS / time.strftime("%Y%m%d-%H%M%S.json"))
    path.parent.mkdir(exist_ok=True)
    report = {"machine": {**where, "busy": busy}, "quick": options.quick, "runs": results}
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten to {path}")
    return bool(failures)


def _measure(
    benchmark: Benchmark, options: argparse.Namespace, results: dict[str, list[Figures]]
) -> list[str]:
    """All runs of one benchmark; what could not be measured."""
    scale = benchmark.quick if options.quick else benchmark.full
    scale = replace(
        scale,
        clients=options.clients or scale.clients,
        seconds=options.seconds or scale.seconds,
    )
    failures = []
    for run in range(1, options.runs + 1):
        for peer in _peers(benchmark, options):
            what = f"{benchmark.name} {peer}"
            busy = machine.wait_for_quiet(options.patience)
            print(
                f"{what}, run {run} of {options.runs}, {scale}, others use {busy:.2f} cores",
                file=sys.stderr,
                flush=True,
            )
            try:
                figures = benchmark.run(peer, scale)
            except (RuntimeError, OSError) as error:
                failures.append(f"{what}: {error}")
                print(f"\r  {error}", file=sys.stderr)
                continue
            results.setdefault(peer, []).append({**figures, "busy": busy})
            said = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
            print(f"\r  {said:<76}", file=sys.stderr, flush=True)
    return failures


def _peers(benchmark: Benchmark, options: argparse.Namespace) -> list[str]:
    if options.peers:
        return [peer for peer in benchmark.peers if peer in options.peers]
    return list(benchmark.few if options.quick else benchmark.peers)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description="What pushd costs.")
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], metavar="NAME",
                        help=", ".join(BENCHMARKS))  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="smaller and shorter, one run")
    parser.add_argument("--runs", type=int, help="how many of each; 3, or 1 if quick")
    parser.add_argument("--peers", type=lambda text: text.split(","), help="only these: pushd,c")
    parser.add_argument("--clients", type=int, help="another number of clients")
    parser.add_argument("--seconds", type=float, help="another time for what is measured")
    parser.add_argument("--patience", type=float, default=0.0, metavar="SECONDS",
                        help="how long to wait before each run for a quiet machine")  # fmt: skip
    parser.add_argument("--json", help="where to write the results")
    options = parser.parse_args()
    options.runs = options.runs or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    sys.exit(main())
