"""What was measured, as a table: medians, spreads, ratios, and what was wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from benchmarks.benchmark import Benchmark, Figures, Measure
from benchmarks.peers import PEERS

BESIDE = ("c", "nchan", "plain")
"""Who the others are compared to."""

COMPARED = ("us", "ms", "s", "KB")
"""Units of what costs something: less is better."""

HEADER = ("", "", "median (spread)", "x C", "x nchan", "x plain", "wanted")

Runs = Mapping[str, Sequence[Figures]]
"""The runs of one benchmark, by peer."""


def table(results: Mapping[str, Runs], benchmarks: Mapping[str, Benchmark]) -> str:
    """All results, a row for each measure and peer."""
    rows = [HEADER]
    for name, runs in results.items():
        rows.append((name.upper(), "", "", "", "", "", ""))
        for key, measure in benchmarks[name].measures.items():
            rows.extend(_rows(key, measure, runs))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 2 <= column <= 5 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def missed(results: Mapping[str, Runs], benchmarks: Mapping[str, Benchmark]) -> list[str]:
    """What was wanted of pushd and is not so."""
    return [
        f"{name}: {measure.title}: {wish}"
        for name, runs in results.items()
        for key, measure in benchmarks[name].measures.items()
        for wish, so in _wishes(key, measure, runs)
        if not so
    ]


def _rows(key: str, measure: Measure, runs: Runs) -> Iterator[tuple[str, ...]]:
    title = f"  {measure.title}" + (f", {measure.unit}" if measure.unit else "")
    for peer in runs:
        values = _values(key, runs, peer)
        if not values:
            continue
        compared = measure.unit in COMPARED
        ratios = [_ratio(key, runs, peer, other) if compared else "" for other in BESIDE]
        wishes = _wishes(key, measure, runs) if peer == "pushd" else []
        wanted = ", ".join(f"{wish}: {'yes' if so else 'NO'}" for wish, so in wishes)
        name = PEERS[peer].title if peer in PEERS else peer
        yield (title, name, _spread(values), *ratios, wanted)
        title = ""


def _wishes(key: str, measure: Measure, runs: Runs) -> list[tuple[str, bool]]:
    values = _values(key, runs, "pushd")
    if not values:
        return []
    ours = median(values)
    wishes = []
    if measure.most is not None:
        wishes.append((f"at most {measure.most:g}", ours <= measure.most))
    if measure.least is not None:
        wishes.append((f"at least {measure.least:g}", ours >= measure.least))
    for peer, times in (measure.times or {}).items():
        theirs = _values(key, runs, peer)
        if theirs:
            wishes.append((f"at most {times:g} x {peer}", ours <= times * median(theirs)))
    return wishes


def _values(key: str, runs: Runs, peer: str) -> list[float]:
    return [figures[key] for figures in runs.get(peer, ()) if key in figures]


def _ratio(key: str, runs: Runs, peer: str, other: str) -> str:
    ours, theirs = _values(key, runs, peer), _values(key, runs, other)
    if peer == other or not theirs or not median(theirs):
        return ""
    return f"{median(ours) / median(theirs):.2f}"


def _spread(values: Sequence[float]) -> str:
    if min(values) == max(values):
        return _number(values[0])
    return f"{_number(median(values))} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"
